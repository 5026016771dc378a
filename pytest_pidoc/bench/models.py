"""``pidoc bench models``: what each model reports about itself, how long it takes to start, and a node's memory."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.bench.start import SETTLE, private_memory
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.choose import choose
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.machines import machine
from pytest_pidoc.node import Node
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table
from pytest_pidoc.vm.bringup import Timings

__all__ = ["Model", "ModelsReport", "cpu", "models"]


@dataclass(frozen=True)
class Model:
    """What was measured of one model.

    Attributes
    ----------
    name
        The model's name.
    uname
        What ``uname -m`` prints.
    cpu
        What ``/proc/cpuinfo`` says about the first CPU, in short.
    board
        What is in ``/proc/device-tree/model``.
    cold
        The times of the cold start, in seconds.
    warm
        The times of each warm start.
    memory
        Bytes of the warm node's private memory, after each start.
    obstacle
        Why the model could not be measured; the other fields are empty then.
    failed
        Whether this host's QEMU supports the model all the same.
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
class ModelsReport(Report):
    """What the models report about themselves, and how long they take to start."""

    models: tuple[Model, ...]

    @property
    def ok(self) -> bool:
        """Whether every model was measured that this host's QEMU supports."""
        return not any(each.failed for each in self.models)

    def body(self) -> str:
        """Return a row for each model."""
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
        return table((*head, "warm banner s", "warm ready s", "private MB"), rows)

    def notes(self) -> list[str]:
        """Return which models could not be measured, where it was, and what the figures are."""
        return [
            *(f"{each.name}: {each.obstacle}" for each in self.models if each.obstacle),
            self.where(),
            f"warm starts: {SPREAD}",
        ]


def models(settings: Settings, *, runs: int, progress: Progress, names: Sequence[str]) -> ModelsReport:
    """Start one node of each model once cold and *runs* times warm, one model after the other.

    The report lists a model that cannot be measured with the reason; the others are measured all the same.

    Raises
    ------
    SettingsError
        There is no model of one of the *names*, or it does not support the memory in *settings*.
    EngineUnavailable
        No engine can be used.
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
    """Return what was measured of a model, and the version of its QEMU."""
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
                raise PidocError(f"A node of {settings.model} did not start warm: {cluster.timings.start}.")
            time.sleep(SETTLE)
            timings.append(cluster.timings)
            memory += private_memory(cluster.name)
    return replace(model, warm=tuple(timings), memory=tuple(memory)), qemu


def cpu(cpuinfo: str) -> str:
    """Return what ``/proc/cpuinfo`` says about the first CPU: its name, its part number, and the hardware around it.

    A 64-bit kernel gives only the number, a 32-bit one all of them.
    """
    fields: dict[str, str] = {}
    for name, value in re.findall(r"^([^\t:\n]+?)\s*: *(.*)$", cpuinfo, re.MULTILINE):
        fields.setdefault(name, value.strip())
    part = f"part {fields['CPU part']}" if "CPU part" in fields else ""
    return ", ".join(filter(None, (fields.get("model name"), part, fields.get("Hardware"))))


def _read(node: Node, command: str) -> str:
    return str(node.run(command, warn=True).stdout.strip())
