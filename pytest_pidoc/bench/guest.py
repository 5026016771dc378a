"""``pidoc bench guest``: how fast a guest computes, stores and sends, with a whole CPU and with half of one.

Two clusters of each model run side by side, one with ``cpus=1.0`` and one with ``cpus=0.5``, and are measured
alternately. All times are the host's: see `pytest_pidoc.bench.stopwatch`.
"""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.estimate import EstimateReport, estimate
from pytest_pidoc.bench.published import EMULATED, EVENTS, MAX_PRIME, PHYSICAL
from pytest_pidoc.bench.report import Report
from pytest_pidoc.bench.stopwatch import BEGIN, END, Lap, alternately, marked, size_for, timed
from pytest_pidoc.bench.transfers import DISK, RECEIVE
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.choose import choose
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.machines import MIB, machine
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["SHARES", "GuestReport", "Measured", "guest", "told"]

#: The CPU limit of each cluster's nodes.
SHARES = (1.0, 0.5)
TIMEOUT = 600  # seconds, of one measurement
TIMEOUT_EVENT = 5.0  # seconds more for each of sysbench's events, which takes 0.08 s on a pi1 alone
PRIME = "sysbench prime"

_SEND = f"""
import socket, sys, time
while True:
    try:
        connection = socket.create_connection(("pi-2", 9000))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
piece = bytes(1 << 20)
print("{BEGIN}", time.monotonic(), flush=True)
for _ in range(int(sys.argv[1])):
    connection.sendall(piece)
connection.shutdown(socket.SHUT_WR)
connection.recv(100)
print("{END}", time.monotonic())
"""


@dataclass(frozen=True)
class _Task:
    """Something to measure: a command that does it SIZE times, and how much once is, in *unit*."""

    what: str
    command: str
    unit: str
    once: float
    most: int = 512
    needs_lan: bool = False

    def lap(self, cluster: Cluster, size: int) -> Lap:
        command = self.command.replace("SIZE", str(size))
        if not self.needs_lan:
            return timed(cluster[0], command, timeout=TIMEOUT)
        with ThreadPoolExecutor() as pool:
            received = pool.submit(cluster[1].run, f"timeout {TIMEOUT} python3 -c {shlex.quote(RECEIVE)}")
            lap = timed(cluster[0], command, timeout=TIMEOUT)
            received.result()
        return lap

    def seconds(self, cluster: Cluster, size: int) -> float:
        return self.lap(cluster, size).seconds


_LOOP = "bash -c 'for ((i = 0; i < 1000 * SIZE; i++)); do :; done'"
_MEMORY = "sysbench memory --memory-block-size=1M --memory-total-size=SIZEM --time=0 run"

_TASKS = (
    _Task("bash loop", marked(_LOOP), "1000/s", 1, most=100_000),
    _Task("memory write", marked(_MEMORY), "MB/s", MIB / 1e6, most=1 << 20),
    *(_Task(name, way.command, "MB/s", way.unit / 1e6) for name, way in DISK.items()),
    _Task("network", f"python3 -c {shlex.quote(_SEND)} SIZE", "MB/s", MIB / 1e6, needs_lan=True),
)


def told(text: str) -> tuple[int, float]:
    """Return how many events sysbench has computed by its output, and in how many seconds of the guest's clock.

    Raises
    ------
    PidocError
        The output has no such figures.
    """
    events = re.search(r"total number of events: +(\d+)", text)
    seconds = re.search(r"total time: +([\d.]+)s", text)
    if events is None or seconds is None:
        raise PidocError(
            "The output of sysbench has no number of events or no total time.",
            evidence=text,
            tip="install sysbench 1.0 in the image",
        )
    return int(events[1]), float(seconds[1])


#: The times of a measurement: by the host's clock, by the guest's (sysbench prints it), and of the host's processors.
_TIMES: dict[str, Callable[[Lap], float]] = {
    "seconds": lambda lap: lap.seconds,
    "guest's clock": lambda lap: told(lap.said)[1],
    "processor": lambda lap: lap.processor,
}


@dataclass(frozen=True)
class Measured:
    """One thing that was measured of one model.

    Attributes
    ----------
    model, what
        The model, and what was measured of it.
    unit
        ``s`` for a time, otherwise that of a rate.
    size, once
        How often it was done in each measurement, and how much once is, in *unit*.
    laps
        The measurements with each of `SHARES`; those at the same index were made directly one after the other.
    """

    model: str
    what: str
    unit: str
    size: int
    once: float
    laps: tuple[tuple[Lap, ...], ...]

    @property
    def values(self) -> list[list[float]]:
        """What was measured, in *unit*, with each share."""
        if self.unit == "s":
            return [[lap.seconds for lap in laps] for laps in self.laps]
        return [[self.size * self.once / lap.seconds for lap in laps] for laps in self.laps]

    @property
    def slowdown(self) -> list[float]:
        """The time with the last of `SHARES` as a multiple of the time with the first, for each pair."""
        return [last.seconds / first.seconds for first, last in zip(self.laps[0], self.laps[-1], strict=True)]

    @property
    def used(self) -> list[float]:
        """How much of a processor the node's QEMU used, with each share: medians."""
        return [statistics.median(lap.processor / lap.seconds for lap in laps) for laps in self.laps]

    def ten_thousand(self, time: Callable[[Lap], float]) -> list[float]:
        """Return the time for 10,000 of sysbench's events, as in the published figures: medians, with each share.

        If fewer were measured, it is extrapolated in proportion.

        Parameters
        ----------
        time
            Which of a measurement's times.
        """
        return [statistics.median(map(time, laps)) * EVENTS / self.size for laps in self.laps]

    def row(self) -> tuple[str, ...]:
        """Return it as a row of a table."""
        what = f"{self.what}, {self.size:,} events" if self.what == PRIME else self.what
        used = ", ".join(f"{each:.2f}" for each in self.used)
        return (self.model, what, self.unit, *map(spread, self.values), spread(self.slowdown), used)


@dataclass(frozen=True)
class GuestReport(Report):
    """How fast guests are.

    Attributes
    ----------
    sysbench
        The version of sysbench in the guests.
    measured
        What was measured.
    obstacles
        Why models could not be measured, by their names.
    failed
        Those that this host's QEMU supports all the same.
    estimate
        How long small programs might take on real boards, with ``--estimate``.
    """

    sysbench: str
    measured: tuple[Measured, ...]
    obstacles: dict[str, str]
    failed: tuple[str, ...] = ()
    estimate: EstimateReport | None = None

    @property
    def ok(self) -> bool:
        """Whether every model was measured that this host's QEMU supports."""
        return not self.failed

    @property
    def primes(self) -> list[Measured]:
        """The measurements with sysbench's CPU test."""
        return [each for each in self.measured if each.what == PRIME]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: every measurement, the medians of what follows, and what was published."""
        derived = [{"slowdown": statistics.median(each.slowdown), "used": each.used} for each in self.measured]
        primes = {each.model: {name: each.ten_thousand(time) for name, time in _TIMES.items()} for each in self.primes}
        published = {"physical": PHYSICAL, "emulated": dict(zip(map(str, SHARES), EMULATED, strict=True))}
        estimated = None if self.estimate is None else self.estimate.to_dict()
        plain = {**super().to_dict(), "estimate": estimated}
        return {**plain, "shares": SHARES, "derived": derived, "ten_thousand": primes, "published": published}

    def body(self) -> str:
        """Return a table of what was measured, and one of sysbench's times beside the published ones."""
        shares = [f"cpus={share:g}" for share in SHARES]
        times = f"time, {' / '.join(f'{share:g}' for share in reversed(SHARES))}"
        head = ("model", "measured", "unit", *shares, times, "processor used")
        first = table(head, [each.row() for each in self.measured])
        columns = (*(f"{share} s" for share in shares), *(f"{shares[0]}, {name} s" for name in list(_TIMES)[1:]))
        second = table((f"{PRIME}, {EVENTS:,} events", *columns), self._beside())
        return "\n".join([first, "", second, ""])

    def notes(self) -> list[str]:
        """Return which models could not be measured, where it was, what the figures are, and the estimates."""
        return [
            *(f"{name}: {obstacle}" for name, obstacle in self.obstacles.items()),
            self.where(self.sysbench),
            f"{SPREAD}; times are those of the host's clock",
            *([] if self.estimate is None else ["", str(self.estimate)]),
        ]

    def _beside(self) -> list[tuple[str, ...]]:
        """Return the rows of the table of times measured here and published ones."""
        rows = []
        for each in self.primes:
            name = each.model if each.size == EVENTS else f"{each.model}, extrapolated from {each.size:,}"
            seconds, *others = (each.ten_thousand(time) for time in _TIMES.values())
            rows.append((name, *(f"{value:.1f}" for value in (*seconds, *(other[0] for other in others)))))
        rows.append(("published: pidoc's emulated Pi", *(f"{value:.1f}" for value in EMULATED), "", ""))
        rows += [(f"published: {name}", f"{value:.1f}", "", "", "") for name, value in PHYSICAL.items()]
        return rows


def guest(
    settings: Settings,
    *,
    runs: int,
    progress: Progress,
    names: Sequence[str],
    events: int,
    estimated: bool = False,
) -> GuestReport:
    """Measure each of the named models *runs* times, one model after the other.

    The report lists a model that cannot be measured with the reason; the others are measured all the same.

    Parameters
    ----------
    settings
        The engine, and the other settings of the nodes.
    runs
        How often each thing is measured with each of `SHARES`.
    progress
        Gets a step for each thing that is measured.
    names
        The models.
    events
        How many events sysbench computes: on a board, `EVENTS` take many minutes.
    estimated
        Also estimate how long small programs take on real boards.

    Raises
    ------
    SettingsError
        There is no model of one of the *names*.
    EngineUnavailable
        No engine can be used.
    """
    models = [machine(name.strip()).name for name in names]
    engine = choose(settings.engine)
    kinds = [replace(settings, engine=engine, model=model, start="warm") for model in models]
    for kind in kinds:
        kind.spec()
    measured: list[Measured] = []
    obstacles, failed, versions = {}, [], ("", "")
    for number, kind in enumerate(kinds, start=1):
        progress.step(f"model {number} of {len(kinds)}: {kind.model}")
        try:
            more, versions = _measure(kind, runs, progress, events)
            measured += more
        except PidocError as error:
            obstacles[kind.model] = error.what
            if not isinstance(error, EngineUnavailable):
                failed.append(kind.model)
    found = estimate(replace(settings, engine=engine), progress=progress) if estimated else None
    return GuestReport(host(), engine, *versions, tuple(measured), obstacles, tuple(failed), found)


def _measure(settings: Settings, runs: int, progress: Progress, events: int) -> tuple[list[Measured], tuple[str, str]]:
    """Return what was measured of one model, and the versions of its QEMU and of sysbench."""
    model = machine(settings.model)
    full, half = (replace(settings, nodes=2 if model.lan else 1, cpus=share) for share in SHARES)
    with (
        Cluster.up(settings=full, progress=progress) as first,
        Cluster.up(settings=half, progress=progress) as second,
    ):
        sysbench = str(first[0].run("sysbench --version").stdout.splitlines()[-1])
        versions = str(first.engine.qemu_version(model.binary)), sysbench
        progress.step(f"{model.name}: {PRIME}, {events} events")
        prime = partial(_prime, events=events)
        found = [Measured(model.name, PRIME, "s", events, 1, alternately(prime, first, second, runs=runs))]
        for task in _TASKS:
            if task.needs_lan and not model.lan:
                continue
            size = size_for(partial(task.seconds, first), task.most)
            progress.step(f"{model.name}: {task.what}, {size} times")
            laps = alternately(partial(task.lap, size=size), first, second, runs=runs)
            found.append(Measured(model.name, task.what, task.unit, size, task.once, laps))
    return found, versions


def _prime(cluster: Cluster, events: int) -> Lap:
    command = f"sysbench cpu --cpu-max-prime={MAX_PRIME} --time=0 --events={events} run"
    lap = timed(cluster[0], marked(command), timeout=TIMEOUT + TIMEOUT_EVENT * events)
    if told(lap.said)[0] != events:
        raise PidocError(f"sysbench on {cluster[0].name} did not compute {events} events.", evidence=lap.said)
    return lap
