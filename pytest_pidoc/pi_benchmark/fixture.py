"""What the fixture ``pi_benchmark`` does: measure, hold against the baseline, show; pytest's hooks are in `hooks`.

pytest-benchmark, if it is installed, gets each figure too, so that its storage, comparison and histograms can be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pidoc.errors import BenchmarkError, SettingsError
from pytest_pidoc.pi_benchmark import baseline, metrics
from pytest_pidoc.pi_benchmark.options import CHOSEN, DEFAULTS, PROPERTY, SIGNATURE, AskedMeasurement, asked_measurement
from pytest_pidoc.values.text import table

if TYPE_CHECKING:
    from pytest_pidoc.node import Node
    from pytest_pidoc.pi_benchmark.measure import Measurement
    from pytest_pidoc.settings.spec import ClusterSpec

__all__ = ["Book", "PiBenchmark", "Result", "asked_of_run", "collected", "spec_that_measures"]

_asked = pytest.StashKey[AskedMeasurement]()
_runs = pytest.StashKey["_AskedOfRun"]()
_counter = pytest.StashKey["_Counter"]()


@dataclass(frozen=True)
class _AskedOfRun:
    """What the options ask of all benchmarks, and what the baseline says of them."""

    path: Path
    update: bool
    entries: tuple[baseline.Entry, ...]


@dataclass(frozen=True)
class Result:
    """What a benchmark has found: ``pi_benchmark`` returns it.

    Attributes
    ----------
    entry
        Name, conditions, program, and the median of each metric.
    metric
        The metric that was asked for.
    rounds
        How often the command was run.
    spread
        (Maximum - minimum) / median of that metric.
    floor
        The noise floor: the median of that metric for a command that does nothing. Each figure includes it.
    floor_spread
        Maximum - minimum of the noise floor: a smaller difference between two figures means nothing.
    """

    entry: baseline.Entry
    metric: str
    rounds: int
    spread: float
    floor: float
    floor_spread: float

    @property
    def value(self) -> float:
        """The median of the metric: a count, or seconds."""
        return self.entry.metrics[self.metric]


def _result_from(data: Mapping[str, Any]) -> Result:
    """Return the result that ``dataclasses.asdict`` has made plain."""
    return Result(**{**data, "entry": baseline.entry_from(data["entry"])})


def asked_of_run(config: pytest.Config) -> _AskedOfRun:
    """Return what the options ask of all benchmarks, with the baseline if it is needed.

    Raises
    ------
    BenchmarkError
        The baseline cannot be read.
    """
    if _runs not in config.stash:
        values = {**DEFAULTS, **config.stash[CHOSEN].values}
        path, update = config.rootpath / values["benchmark_file"], config.getoption("pidoc_benchmark_update")
        needed = update or config.getoption("pidoc_benchmark_compare") or values["benchmark_fail"]
        config.stash[_runs] = _AskedOfRun(path, update, baseline.read(path) if needed else ())
    return config.stash[_runs]


def collected(items: Sequence[pytest.Item], config: pytest.Config) -> None:
    """Read the markers of tests that use ``pi_benchmark``, and let pytest-benchmark take its figures from us."""
    for item in items:
        if not hasattr(config, "workerinput"):  # pytest-xdist shows what a worker raises here as its internal error
            _asked_of(item)
        if config.pluginmanager.hasplugin("benchmark"):
            counter = item.stash[_counter] = _Counter()
            given = item.get_closest_marker("benchmark")
            merged = {**(given.kwargs if given else {}), "timer": counter}
            item.add_marker(pytest.mark.benchmark(**merged), append=False)


def spec_that_measures(item: pytest.Item, spec: ClusterSpec) -> ClusterSpec:
    """Return what a test that uses ``pi_benchmark`` has to start.

    Raises
    ------
    SettingsError
        The model cannot give what is asked for.
    """
    asked = _asked_of(item)
    return metrics.spec_for(spec, [asked.metric, *asked.limits])


def _asked_of(item: pytest.Item) -> AskedMeasurement:
    if _asked not in item.stash:
        marker = item.get_closest_marker("pidoc_benchmark")
        try:
            if marker and marker.args:
                raise SettingsError("The marker pidoc_benchmark takes no positional arguments.", tip=SIGNATURE)
            item.stash[_asked] = asked_measurement(item.config.stash[CHOSEN], marker.kwargs if marker else {})
        except SettingsError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
    return item.stash[_asked]


class PiBenchmark:
    """Measures commands, for one test, and holds them against the baseline if that is asked for."""

    def __init__(self, item: pytest.Item, config: pytest.Config, pytest_benchmark: Any) -> None:
        self._item = item
        self._run = asked_of_run(config)
        self._asked = _asked_of(item)
        self._table = pytest_benchmark
        self._names: set[str] = set()

    def __call__(
        self, pi: Node, command: str, *, setup: str | None = None, name: str = "", timeout: float = 300.0
    ) -> Result:
        """Run a shell command some times in a node and return what it cost.

        Parameters
        ----------
        pi
            The node.
        command
            What is measured. It runs in the home directory of the node's user, who is not root.
        setup
            A shell command that is run before each round, and not measured.
        name
            Tells the benchmarks of one test apart.
        timeout
            Seconds of the host's clock after which a round is ended, and is an error.

        Raises
        ------
        BenchmarkError
            It cannot be measured; or, if it is to be compared, there is no baseline for it.
        BenchmarkSlower
            It costs more than the baseline and ``--pidoc-benchmark-fail`` allow.
        """
        from pytest_pidoc.pi_benchmark.measure import EMPTY, conditions, measure

        __tracebackhide__ = True  # the test's own line is what a user wants to see
        asked, wanted = self._asked, metrics.METRICS[self._asked.metric]
        full = f"{self._item.nodeid}/{name}" if name else self._item.nodeid
        if full in self._names:
            raise BenchmarkError(
                f"This test measures two commands under one name: {full}.",
                tip='give the second a name: pi_benchmark(pi, "./prog", name="second")',
            )
        self._names.add(full)
        floor = measure(pi, EMPTY, wanted=wanted, rounds=asked.rounds)
        found = measure(pi, command, wanted=wanted, setup=setup, rounds=asked.rounds, timeout=timeout)
        values = {metric: found.value(metric) for metric in found.rounds}
        entry = baseline.Entry(full, conditions(pi), command, found.program, values)
        chosen = asked.metric
        result = Result(
            *(entry, chosen, asked.rounds),
            *(found.spread(chosen), floor.value(chosen), max(floor.rounds[chosen]) - min(floor.rounds[chosen])),
        )
        self._item.user_properties.append((PROPERTY, json.dumps(asdict(result))))
        self._show(result, found)
        self._hold(entry)
        return result

    def _hold(self, entry: baseline.Entry) -> None:
        """Raise if the benchmark is above the baseline by more than the limits allow."""
        __tracebackhide__ = True
        if self._run.update or not self._asked.limits:
            return
        tip = f"run pytest '{self._item.nodeid}' --pidoc-benchmark-update, if the change is intended"
        try:
            # A marker alone can have a limit: then nothing has read the baseline before.
            entries = self._run.entries or baseline.read(self._run.path)
            old = baseline.find(entries, entry, path=self._run.path, tip=tip)
            baseline.compare(old, entry, self._asked.limits, tip=tip)
        except BenchmarkError as error:
            raise error.with_traceback(None) from None

    def _show(self, result: Result, found: Measurement) -> None:
        """Give the figures of a test's first benchmark to pytest-benchmark."""
        if self._table is None or len(self._names) > 1:
            return
        counter = self._item.stash[_counter]
        rounds = iter(found.rounds[result.metric])
        self._table.group = self._table.group or f"pidoc: {result.metric}"
        self._table.extra_info.update(asdict(result.entry))
        self._table.pedantic(lambda: counter.advance(next(rounds)), rounds=result.rounds)


class _Counter:
    """A clock for pytest-benchmark that shows what was measured, and stands still otherwise."""

    def __init__(self) -> None:
        self._value = 0.0

    def __call__(self) -> float:
        return self._value

    def __repr__(self) -> str:
        return "pi_benchmark"

    def advance(self, value: float) -> None:
        """Let that much pass."""
        self._value += value


class Book:
    """What the benchmarks of all processes have found: it is shown at the end, and can become the baseline."""

    def __init__(self, run: _AskedOfRun) -> None:
        self._run = run
        self._results: dict[str, tuple[str, Result]] = {}
        self._notes: list[str] = []

    def add(self, outcome: str, text: str) -> None:
        """Take the figures of a test that has ended, as its report has them, and how it ended."""
        result = _result_from(json.loads(text))
        self._results[result.entry.name] = outcome, result

    def finish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the baseline, if that is asked for and the run came to its end."""
        if not self._run.update:
            return
        if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
            self._notes.append(f"{self._run.path} is unchanged: the run was interrupted.")
            return
        measured = [result.entry for outcome, result in self._results.values() if outcome == "passed"]
        try:
            total = baseline.update(self._run.path, measured) if measured else len(self._run.entries)
            self._notes.append(f"{self._run.path}: updated {len(measured)} of {total} benchmarks.")
        except BenchmarkError as error:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._notes.append(str(error))

    def show(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the figures."""
        if not self._results and not self._notes:
            return
        terminalreporter.section("benchmarks on emulated Raspberry Pis")
        if self._results:
            head = ("benchmark", "metric", "median", "spread", "empty command", "rounds", "baseline")
            rows = [self._row(result) for _, result in self._results.values()]
            terminalreporter.write_line(table(head, rows))
        for note in self._notes:
            terminalreporter.write_line(note)

    def _row(self, result: Result) -> tuple[object, ...]:
        show = metrics.METRICS[result.metric].show
        return (
            result.entry.name,
            result.metric,
            show(result.value),
            f"{100 * result.spread:.3f} %",
            f"{show(result.floor)} +- {show(result.floor_spread / 2)}",
            result.rounds,
            self._beside(result) if self._run.entries and not self._run.update else "",
        )

    def _beside(self, result: Result) -> str:
        """Return how a figure differs from the baseline, or why the two cannot be compared."""
        try:
            old = baseline.find(self._run.entries, result.entry, path=self._run.path)
        except BenchmarkError as error:
            return "; ".join(error.evidence.splitlines()) or "none"
        before = old.metrics.get(result.metric)
        return "none" if before is None else baseline.change(before, result.value)
