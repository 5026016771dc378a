"""``pidoc bench start``: warm starts against cold ones, also of an untuned Debian, and a node's memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import PidocError
from pytest_pidoc.host import processes
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table
from pytest_pidoc.vm.bringup import Timings

__all__ = ["PLAIN", "SETTLE", "Start", "StartReport", "private_memory", "start"]

SETTLE = 2.0  # seconds after a start until memory is measured
PLAIN = "debian:bookworm,plain"  # the untuned Debian


@dataclass(frozen=True)
class Start:
    """One start of a cluster.

    Attributes
    ----------
    kind
        ``warm``, ``cold``, or ``untuned``: a cold start of an untuned Debian.
    nodes
        Each node's times, in seconds.
    total
        Seconds until `Cluster.up` returned.
    memory
        Bytes of each node's private memory that it has written to, without pages of the template's RAM.
    down
        Seconds to take the cluster down.
    """

    kind: str
    nodes: tuple[Timings, ...]
    total: float
    memory: tuple[int, ...]
    down: float


@dataclass(frozen=True)
class StartReport(Report):
    """How long starts take, of the model that was measured."""

    model: str
    starts: tuple[Start, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: every start, and how many times faster warm ones are."""
        return {**super().to_dict(), **self.ratios()}

    def ratios(self) -> dict[str, float]:
        """Return the median time of each other kind of start, as a multiple of that of warm starts.

        A start ends when the last node is ready. Only starts of as many nodes as the first one count: there can be
        warm starts of other sizes.
        """
        size = len(self.starts[0].nodes)
        warm = statistics.median(self._last("warm", size, "ready"))
        return {
            f"{kind} / warm": statistics.median(self._last(kind, size, "ready")) / warm
            for kind, nodes in self.groups
            if kind != "warm" and nodes == size
        }

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """The kinds of starts with their number of nodes, in the order in which they were made."""
        return tuple(dict.fromkeys((each.kind, len(each.nodes)) for each in self.starts))

    def body(self) -> str:
        """Return a row for each kind of start."""
        rows = []
        for kind, size in self.groups:
            starts = [each for each in self.starts if (each.kind, len(each.nodes)) == (kind, size)]
            memory = [size / 1e6 for each in starts for size in each.memory]
            times = [spread(self._last(kind, size, name)) for name in ("launched", "restored", "banner", "ready")]
            rows.append((kind, size, *times, spread(memory), spread([each.down for each in starts])))
        head = ("start", "nodes", "launched s", "restored s", "banner s", "ready s", "private MB", "down s")
        return table(head, rows)

    def notes(self) -> list[str]:
        """Return where it was, what the figures are, and the ratios."""
        ratios = ", ".join(f"{name}: {value:.1f}" for name, value in self.ratios().items())
        return [self.where(self.model), f"{SPREAD} of the slowest node; {ratios}"]

    def _last(self, kind: str, size: int, name: str) -> list[float]:
        """Return the slowest node's time in each start of that kind and size; 0 where it has no such time."""
        return [
            max(getattr(timings, name) or 0.0 for timings in each.nodes)
            for each in self.starts
            if (each.kind, len(each.nodes)) == (kind, size)
        ]


def start(
    settings: Settings, *, runs: int, progress: Progress, untuned: bool = False, sizes: Sequence[int] = ()
) -> StartReport:
    """Start the cluster that *settings* describe alternately cold and warm, *runs* times each.

    Parameters
    ----------
    settings
        What is started.
    runs
        How often.
    progress
        Gets a step for every start.
    untuned
        Also start as many nodes of an untuned Debian cold.
    sizes
        Also start clusters of these numbers of nodes warm.

    Raises
    ------
    PidocError
        A start failed, or a node was booted instead of forked.
    """
    starts = []
    engine = qemu = ""
    Cluster.up(settings=replace(settings, nodes=1, start="warm"), progress=progress).down()
    warm = replace(settings, start="warm")
    kinds = [
        *([("untuned", replace(settings, image=PLAIN, start="cold"))] if untuned else []),
        ("cold", replace(settings, start="cold")),
        ("warm", warm),
        *(("warm", replace(warm, nodes=size)) for size in sizes),
    ]
    for number in range(1, runs + 1):
        for kind, chosen in kinds:
            progress.step(f"run {number} of {runs}: {chosen.nodes} x {settings.model} {kind}")
            began = time.monotonic()
            with Cluster.up(settings=chosen) as cluster:
                total = time.monotonic() - began
                engine = cluster.engine.name
                qemu = str(cluster.engine.qemu_version(cluster[0].machine.binary))
                nodes = tuple(node.timings for node in cluster)
                if any(each.start != chosen.start for each in nodes):
                    raise PidocError(
                        f"A node started {next(each.start for each in nodes if each.start != chosen.start)} "
                        f"instead of {chosen.start}.",
                        tip="read the warning above, which says why",
                    )
                time.sleep(SETTLE)
                memory = tuple(private_memory(cluster.name))
                began = time.monotonic()
            starts.append(Start(kind, nodes, total, memory, time.monotonic() - began))
    return StartReport(host(), engine, qemu, settings.model, tuple(starts))


def private_memory(cluster: str) -> list[int]:
    """Return the bytes of private memory that each QEMU has written to, from ``/proc/PID/smaps_rollup``."""
    sizes = []
    for identity in processes.of_cluster(cluster):
        process = Path("/proc", identity.partition(":")[0])
        if process.joinpath("comm").read_text().startswith("qemu-system"):
            rollup = dict(line.split(":", 1) for line in process.joinpath("smaps_rollup").read_text().splitlines()[1:])
            sizes.append(int(rollup["Private_Dirty"].split()[0]) * 1024)
    return sizes
