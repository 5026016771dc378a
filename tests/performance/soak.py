"""The subject ``soak``: the same warm start again and again; what fails, what slows down, what is left behind."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_pidoc.bench import host
from pytest_pidoc.bench.report import Report
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.containers import daemon
from pytest_pidoc.containers.running import node_containers
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.host import processes, records
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["Failure", "SoakReport", "Traces", "soak"]

SETTLING = 5.0  # seconds, for another process that is starting a cluster to write whose cluster it is


@dataclass(frozen=True)
class Failure:
    """A cluster that did not start or end properly: the number of its start, from 1, and the error."""

    start: int
    message: str


@dataclass(frozen=True)
class Traces:
    """What this process's nodes consist of, everything by a unique name.

    Attributes
    ----------
    processes
        Children of this process, also those that have ended and were not waited for.
    descriptors
        Open files of this process.
    directories
        Directories of clusters.
    containers
        Containers that this process made, running or not.
    """

    processes: frozenset[str] = frozenset()
    descriptors: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()

    @classmethod
    def now(cls) -> Traces:
        """Return what there is now, without the clusters of other processes of this user."""
        own = processes.own()
        foreign = _foreign_clusters(own)
        with contextlib.ExitStack() as closing:
            containers = []
            with contextlib.suppress(EngineUnavailable):  # no daemon, no containers
                containers = node_containers(closing.enter_context(contextlib.closing(daemon.connect())))
        return cls(
            frozenset(processes.children()),
            frozenset(_descriptors()),
            frozenset(str(path) for path in records.cluster_directories() if path.name not in foreign),
            frozenset(each.id for each in containers if each.maker == own),
        )

    def since(self, before: Traces) -> dict[str, list[str]]:
        """Return what is there now and was not *before*, by its kind."""
        return {kind: sorted(getattr(self, kind) - getattr(before, kind)) for kind in self.__dataclass_fields__}


@dataclass(frozen=True)
class SoakReport(Report):
    """How many warm starts in a row.

    Attributes
    ----------
    model, nodes
        What the cluster consists of.
    starts
        How many starts were tried.
    ready
        Seconds until the last node was ready, of each start that succeeded, in their order.
    cold
        How many of these were not warm.
    failures
        What failed.
    left
        What was left behind, by its kind: see `Traces`.
    """

    model: str
    nodes: int
    starts: int
    ready: tuple[float, ...]
    cold: int
    failures: tuple[Failure, ...]
    left: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether every start was warm, none failed, and nothing was left behind."""
        return not (self.cold or self.failures or any(self.left.values()))

    def drift(self) -> tuple[float, float] | None:
        """Return the median time until ready of the first tenth and of the last; ``None`` if no start succeeded."""
        tenth = max(1, len(self.ready) // 10)
        if not self.ready:
            return None
        return statistics.median(self.ready[:tenth]), statistics.median(self.ready[-tenth:])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**super().to_dict(), "drift": self.drift()}

    def body(self) -> str:
        """Return one row for all starts."""
        drift = self.drift()
        times = (*drift, max(self.ready)) if drift else ()
        starts = (self.starts, len(self.failures), self.cold, *([f"{time:.2f}" for time in times] or ["-"] * 3))
        head = ("starts", "failed", "not warm", "first tenth s", "last tenth s", "slowest s")
        left = {f"{kind} left": len(names) for kind, names in self.left.items()}
        return table((*head, *left), [(*starts, *left.values())])

    def notes(self) -> list[str]:
        """Return where it was, what failed, and what was left behind."""
        return [
            self.where(f"{self.nodes} x {self.model}"),
            "seconds until ready: medians, and the slowest start",
            *(f"start {failure.start} failed: {failure.message}" for failure in self.failures),
            *(f"left of {kind}: {', '.join(names)}" for kind, names in self.left.items() if names),
        ]


def soak(settings: Settings, *, runs: int, progress: Progress) -> SoakReport:
    """Start the cluster that *settings* describe warm, and end it, *runs* times; go on after a failure, and report it.

    Raises
    ------
    PidocError
        The first start, which makes the template, failed.
    """
    settings = replace(settings, start="warm")
    spec = settings.spec()
    before = Traces.now()
    with Cluster.up(settings=settings, progress=progress) as first:
        engine, qemu = first.engine.name, str(first.engine.qemu_version(first[0].machine.binary))
    ready: list[float] = []
    failures: list[Failure] = []
    cold = 0
    for number in range(1, runs + 1):
        progress.step(f"start {number} of {runs}: {spec.nodes} x {spec.model}")
        try:
            with Cluster.up(settings=settings) as cluster:
                timings = cluster.timings
        except Exception as error:  # noqa: BLE001 # whatever a start may raise is what is looked for
            failures.append(Failure(number, f"{type(error).__name__}: {error}"))
            progress.step(f"start {number} failed: {failures[-1].message}")
            continue
        ready.append(timings.ready)
        cold += timings.start != "warm"
    settling = Deadline(SETTLING, interval=0.1)
    while any((left := Traces.now().since(before)).values()) and not settling.expired:
        settling.pause()
    return SoakReport(host(), engine, qemu, spec.model, spec.nodes, runs, tuple(ready), cold, tuple(failures), left)


def _foreign_clusters(own: str) -> set[str]:
    """Return the names of the clusters that *own* does not own, but another process or nobody."""
    names = set()
    for directory in records.cluster_directories():
        with contextlib.suppress(PidocError):  # without a record: just being made, or a leftover
            if records.read(directory)["owner"] != own:
                names.add(directory.name)
    return names


def _descriptors() -> list[str]:
    """Return the open files of this process: ``7 -> socket:[4711]``."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(f"{entry.name} -> {entry.readlink()}")
    return found
