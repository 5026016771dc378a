"""``pidoc bench models``: what each model says that it is, how long it takes to start, and a node's memory."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_pidoc.bench import host, spread
from pytest_pidoc.bench.start import SETTLE, private_memory
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.choose import choose
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.machines import machine
from pytest_pidoc.node import Node
from pytest_pidoc.settings import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table
from pytest_pidoc.vm.bringup import Timings

__all__ = ["Model", "ModelsReport", "cpu", "models"]


@dataclass(frozen=True)
class Model:
    """What was found out about one model.

    Attributes
    ----------
    name
        The model's name.
    uname
        What ``uname -m`` prints.
    cpu
        What ``/proc/cpuinfo`` says of the first CPU, in short.
    board
        What is in ``/proc/device-tree/model``.
    cold
        The times of the cold start, in seconds.
    warm
        Those of each warm start.
    memory
        Bytes that are the warm node's own, after each start.
    obstacle
        Why it could not be measured; the others are empty then.
    failed
        Whether it should have been possible here: not if this host's QEMU does not have the model.
    """

    name: str
    uname: str = ""
    cpu: str = ""
    board: str = ""
    cold: Timings | None = None
    warm: tuple[Timings, ...] = ()
    memory: tuple[int, ...] = ()
    obstacle: str = ""
    failed: bool = False


@dataclass(frozen=True)
class ModelsReport:
    """What ``pidoc bench models`` measured."""

    host: str
    engine: str
    qemu: str
    models: tuple[Model, ...]

    @property
    def ok(self) -> bool:
        """Whether every model was measured that this host's QEMU has."""
        return not any(each.failed for each in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rows = []
        for each in self.models:
            cold = ("-", "-") if each.cold is None else (f"{each.cold.banner:.2f}", f"{each.cold.ready:.2f}")
            warm = [
                spread(values) if values else "-"
                for values in (
                    [timings.banner for timings in each.warm],
                    [timings.ready for timings in each.warm],
                    [size / 1e6 for size in each.memory],
                )
            ]
            rows.append((each.name, *(text or "-" for text in (each.uname, each.cpu, each.board)), *cold, *warm))
        head = ("model", "uname -m", "CPU", "device tree", "cold banner s", "cold ready s")
        notes = [
            *(f"{each.name}: {each.obstacle}" for each in self.models if each.obstacle),
            f"{self.host}; engine {self.engine}, {self.qemu}",
            "of warm starts: median (least to most)",
        ]
        return "\n".join([table((*head, "warm banner s", "warm ready s", "private MB"), rows), *notes])


def models(settings: Settings, *, runs: int, progress: Progress, names: Sequence[str]) -> ModelsReport:
    """Start one node of each model once cold and *runs* times warm, one model after the other.

    A model that cannot be measured is listed with the reason, and the others are measured all the same.

    Raises
    ------
    SettingsError
        There is no model of one of the *names*, or it cannot have the memory that *settings* name.
    EngineUnavailable
        There is no engine at all.
    """
    engine = choose(settings.engine)
    kinds = [replace(settings, engine=engine, model=machine(name.strip()).name, nodes=1) for name in names]
    for kind in kinds:
        kind.spec()
    found, qemu = [], ""
    for number, kind in enumerate(kinds, start=1):
        progress.step(f"model {number} of {len(kinds)}: {kind.model}")
        try:
            model, qemu = _measure(kind, runs=runs, progress=progress)
        except PidocError as error:
            model = Model(kind.model, obstacle=error.what, failed=not isinstance(error, EngineUnavailable))
        found.append(model)
    return ModelsReport(host(), engine, qemu, tuple(found))


def _measure(settings: Settings, *, runs: int, progress: Progress) -> tuple[Model, str]:
    """Return what was found out about a model, and the version of its QEMU."""
    cold, warm = replace(settings, start="cold"), replace(settings, start="warm")
    with Cluster.up(settings=cold, progress=progress) as cluster:
        node, qemu = cluster[0], str(cluster.engine.qemu_version(cluster[0].machine.binary))
        model = Model(
            settings.model,
            uname=_read(node, "uname -m"),
            cpu=cpu(_read(node, "cat /proc/cpuinfo")),
            board=_read(node, r"tr -d '\0' </proc/device-tree/model"),
            cold=node.timings,
        )
    Cluster.up(settings=warm, progress=progress).down()  # makes the template
    timings, memory = [], []
    for _ in range(runs):
        with Cluster.up(settings=warm) as cluster:
            if cluster.timings.start != "warm":
                raise PidocError(f"A node of {settings.model} that should have started warm has not.")
            time.sleep(SETTLE)
            timings.append(cluster.timings)
            memory += private_memory(cluster.name)
    return replace(model, warm=tuple(timings), memory=tuple(memory)), qemu


def cpu(cpuinfo: str) -> str:
    """Return what ``/proc/cpuinfo`` says of the first CPU: its name, its part number, and the hardware around it.

    A 64-bit kernel tells the number alone, a 32-bit one all of them.
    """
    fields: dict[str, str] = {}
    for name, value in re.findall(r"^([^\t:\n]+?)\s*: *(.*)$", cpuinfo, re.MULTILINE):
        fields.setdefault(name, value.strip())
    part = f"part {fields['CPU part']}" if "CPU part" in fields else ""
    return ", ".join(filter(None, (fields.get("model name"), part, fields.get("Hardware"))))


def _read(node: Node, command: str) -> str:
    return str(node.run(command, warn=True).stdout.strip())
