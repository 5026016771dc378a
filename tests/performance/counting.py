"""The subject ``counting``: whether counts repeat where seconds do not, and show a small slow-down; and what they cost.

During all but the last, one process for each of the host's processors keeps it busy.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import BenchmarkSlower, SettingsError
from pytest_pidoc.node import Node
from pytest_pidoc.pi_benchmark.baseline import Entry, compare
from pytest_pidoc.pi_benchmark.measure import Measurement, conditions, measure
from pytest_pidoc.pi_benchmark.metrics import METRICS, spec_for
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["Cost", "CountingReport", "counting"]

SLOWDOWN = 0.01  # more work, which a benchmark has to notice
LIMIT = 0.005  # above which a benchmark fails
MOST_SPREAD = 0.002  # of the counted metric, over all nodes
LOOPS = 300_000

#: A typical program: it starts an interpreter, loads libraries, allocates, and computes for 0.1 s.
PROGRAM = "python3 -c 'sum(i * i for i in range({loops}))'"

_BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10**6))"


@dataclass(frozen=True)
class Cost:
    """What measuring a metric costs: the program's seconds by the host's clock, of each run."""

    metric: str
    clock: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class CountingReport(Report):
    """How counts repeat, and what they notice.

    Attributes
    ----------
    model
        The model that was measured.
    metric
        What is compared with a baseline.
    unchanged
        Each metric of the unchanged program, each on a node of its own.
    caught, slowed
        How often the slower program failed against the baseline, and how often it was run.
    alarms
        How often the unchanged program failed.
    costs
        What measuring each metric costs; the first one measures nothing.
    """

    model: str
    metric: str
    unchanged: dict[str, tuple[float, ...]]
    caught: int
    slowed: int
    alarms: int
    costs: tuple[Cost, ...]

    @property
    def ok(self) -> bool:
        """Whether the metric repeats, each slow-down was noticed, and nothing else was taken for one."""
        return self.caught == self.slowed and not self.alarms and _relative(self.unchanged[self.metric]) < MOST_SPREAD

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        spreads = {name: _relative(values) for name, values in self.unchanged.items()}
        return {**super().to_dict(), "spreads": spreads}

    def body(self) -> str:
        """Return a table of how each metric repeats, what was noticed, and a table of what measuring costs."""
        nodes = len(self.unchanged[self.metric])
        repeats = [
            (name, METRICS[name].show(statistics.median(values)), f"{100 * _relative(values):.3f} %")
            for name, values in self.unchanged.items()
        ]
        plain = statistics.median(self.costs[0].seconds)
        costs = [
            (each.metric, each.clock, spread(each.seconds), f"{statistics.median(each.seconds) / plain:.2f}")
            for each in self.costs
        ]
        return "\n".join(
            [
                table(("metric", "median", f"spread over {nodes} fresh nodes"), repeats),
                "",
                f"{self.metric}: {100 * SLOWDOWN:g} % more work noticed {self.caught} times of {self.slowed},"
                f" {self.alarms} false alarms in {nodes} unchanged runs, with a limit of {100 * LIMIT:g} %",
                "",
                table(("measured", "the guest's clock", "seconds on the host", "ratio"), costs),
            ]
        )

    def notes(self) -> list[str]:
        """Return where it was, and what the figures are."""
        return [
            f"{self.where(self.model)}; all CPUs kept busy, except for the last table",
            f"spread: (maximum - minimum) / median; seconds: {SPREAD}",
        ]


def counting(settings: Settings, *, runs: int, progress: Progress, unchanged: int = 50) -> CountingReport:
    """Run a program on *unchanged* fresh nodes, and one that does 1 % more on the first *runs* of them.

    Raises
    ------
    SettingsError
        The model cannot count.
    PidocError
        A node cannot be started, or the program cannot be measured.
    """
    plain = replace(settings, nodes=1)
    spec, chosen = _prepared(plain)
    counted = replace(plain, mips=spec.mips)
    wanted, usual = METRICS[chosen], PROGRAM.format(loops=LOOPS)
    found: list[Measurement] = []
    caught = alarms = 0
    with Cluster.up(settings=counted, progress=progress) as cluster:
        node = cluster[0]
        engine, qemu = cluster.engine.name, str(node.qemu_version)
        before = _entry(node, measure(node, usual, wanted=wanted, rounds=1))
        twice = measure(node, PROGRAM.format(loops=2 * LOOPS), wanted=wanted, rounds=1).value(chosen)
        loop = (twice - before.metrics[chosen]) / LOOPS
        slower = PROGRAM.format(loops=LOOPS + round(before.metrics[chosen] * SLOWDOWN / loop))
        progress.step("what measuring costs")
        costs = _costs(plain, node, usual, chosen, max(3, runs // 4))
    with _busy():
        for number in range(1, max(unchanged, runs) + 1):
            progress.step(f"node {number} of {max(unchanged, runs)}")
            with Cluster.up(settings=counted) as cluster:
                node = cluster[0]
                found.append(measure(node, usual, wanted=wanted, rounds=1))
                alarms += _fails(before, _entry(node, found[-1]))
                if number <= runs:
                    caught += _fails(before, _entry(node, measure(node, slower, wanted=wanted, rounds=1)))
    values = {name: tuple(each.rounds[name][0] for each in found) for name in found[0].rounds}
    return CountingReport(host(), engine, qemu, settings.model, chosen, values, caught, runs, alarms, costs)


def _prepared(settings: Settings) -> tuple[ClusterSpec, str]:
    """Return the spec of a node that counts, and the metric: guest_time if the guest cannot count instructions."""
    try:
        return spec_for(settings.spec(), ["instructions"]), "instructions"
    except SettingsError:
        return spec_for(settings.spec(), ["guest_time"]), "guest_time"


def _costs(settings: Settings, counted: Node, command: str, metric: str, runs: int) -> tuple[Cost, ...]:
    """Run the program alternately on a node with the host's clock and one that counts, with events and without."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with Cluster.up(settings=settings) as cluster:
        for _ in range(runs):
            for clock, node, events, named in (
                ("the host's", cluster[0], False, "wall_time"),
                ("the host's", cluster[0], True, "guest_time"),
                ("counts", counted, False, "virtual_time"),
                ("counts", counted, True, metric),
            ):
                taken = measure(node, command, wanted=METRICS["wall_time"], rounds=1, events=events)
                seconds.setdefault((named, clock), []).append(taken.value("wall_time"))
    return tuple(Cost(named, clock, tuple(each)) for (named, clock), each in seconds.items())


def _entry(node: Node, found: Measurement) -> Entry:
    values = {name: found.value(name) for name in found.rounds}
    return Entry("counting", conditions(node), found.command, found.program, values)


def _fails(before: Entry, now: Entry) -> bool:
    """Tell whether a benchmark would fail."""
    metric = "instructions" if "instructions" in before.metrics else "guest_time"
    try:
        compare(before, now, {metric: LIMIT})
    except BenchmarkSlower:
        return True
    return False


def _relative(values: Sequence[float]) -> float:
    """Return (maximum - minimum) / median."""
    return (max(values) - min(values)) / statistics.median(values)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Keep every processor of the host busy; each process ends by itself when this one does."""
    with contextlib.ExitStack() as ending:
        for _ in os.sched_getaffinity(0):
            process = ending.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY]))
            ending.callback(process.kill)
        yield
