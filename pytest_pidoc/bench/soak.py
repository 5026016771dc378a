"""``pidoc bench soak``: the same warm start again and again; what fails, what slows down, what is left behind."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pytest_pidoc.bench import host
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.containers import daemon
from pytest_pidoc.containers.running import node_containers
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.host import processes, records
from pytest_pidoc.settings import Settings
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["Failure", "SoakReport", "Traces", "soak"]

SETTLING = 5.0  # seconds: a cluster that somebody else just makes is not written down yet, so nobody knows whose it is


@dataclass(frozen=True)
class Failure:
    """A start or an end of a cluster that failed: which start it was, counted from 1, and what was said."""

    start: int
    message: str


@dataclass(frozen=True)
class Traces:
    """What there is of this process's nodes, each thing by a name that it alone has.

    Attributes
    ----------
    processes
        Children of this process, also those that have ended and were not waited for.
    descriptors
        Open files of this process.
    directories
        Directories of clusters.
    containers
        Containers that this process has made, running or not.
    """

    processes: frozenset[str] = frozenset()
    descriptors: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()

    @classmethod
    def now(cls) -> Traces:
        """Look; what belongs to clusters of other processes of this user does not count."""
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
class SoakReport:
    """What ``pidoc bench soak`` found.

    Attributes
    ----------
    nodes
        Nodes of the cluster.
    starts
        How often it was to be started.
    ready
        Seconds until the last node was ready, of each start that went through, in order.
    cold
        How many of these were no warm starts.
    failures
        What failed.
    left
        What was left behind, by its kind: see `Traces`.
    """

    host: str
    engine: str
    model: str
    qemu: str
    nodes: int
    starts: int
    ready: tuple[float, ...]
    cold: int
    failures: tuple[Failure, ...]
    left: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether every start was a warm one, none failed, and nothing was left behind."""
        return not (self.cold or self.failures or any(self.left.values()))

    def drift(self) -> tuple[float, float] | None:
        """Return the median time until ready of the first tenth and of the last; ``None`` if no start went through."""
        tenth = max(1, len(self.ready) // 10)
        if not self.ready:
            return None
        return statistics.median(self.ready[:tenth]), statistics.median(self.ready[-tenth:])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**asdict(self), "drift": self.drift(), "ok": self.ok}

    def __str__(self) -> str:
        drift = self.drift()
        times = (*drift, max(self.ready)) if drift else ()
        starts = (self.starts, len(self.failures), self.cold, *([f"{time:.2f}" for time in times] or ["-"] * 3))
        head = ("starts", "failed", "not warm", "first tenth s", "last tenth s", "slowest s")
        left = {f"{kind} left": len(names) for kind, names in self.left.items()}
        lines = [
            table((*head, *left), [(*starts, *left.values())]),
            f"{self.host}; engine {self.engine}, {self.qemu}, {self.nodes} x {self.model}",
            "seconds until ready: medians, and the slowest start",
            *(f"start {failure.start} failed: {failure.message}" for failure in self.failures),
            *(f"left of {kind}: {', '.join(names)}" for kind, names in self.left.items() if names),
        ]
        return "\n".join(lines)


def soak(settings: Settings, *, runs: int, progress: Progress) -> SoakReport:
    """Start and end the cluster that *settings* describe *runs* times, warm; a failure is noted and does not end it.

    Raises
    ------
    PidocError
        There is nothing to start nodes from: the first start, which makes the template, failed.
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
    return SoakReport(host(), engine, spec.model, qemu, spec.nodes, runs, tuple(ready), cold, tuple(failures), left)


def _foreign_clusters(own: str) -> set[str]:
    """Return the names of the clusters that another process than *own* owns, or nobody."""
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
