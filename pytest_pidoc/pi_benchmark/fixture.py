"""The face of the benchmarks in pytest: the fixture ``pi_benchmark``, its options and marker, the baseline, the table.

pytest-benchmark, if it is installed, gets each figure too, so that its storage, comparison and histograms can be used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_pidoc.errors import BenchmarkError, PidocError, SettingsError
from pytest_pidoc.pi_benchmark import baseline, metrics
from pytest_pidoc.values.text import table

if TYPE_CHECKING:
    from pytest_pidoc.node import Node
    from pytest_pidoc.pi_benchmark.measure import Measurement
    from pytest_pidoc.settings import ClusterSpec

__all__ = ["PiBenchmark", "Result", "pi_benchmark", "prepare"]

MARKER = "pidoc_benchmark(metric=None, rounds=None, fail=None)"
FIXTURE = "pi_benchmark"
PROPERTY = "pidoc_benchmark"  # of a test's report, which also reaches the controlling process of pytest-xdist
MOST_ROUNDS = 1000


class _Option(NamedTuple):
    """A setting: ``--pidoc-benchmark-NAME``, ``pidoc_benchmark_NAME`` in an ini file, ``PIDOC_BENCHMARK_NAME``."""

    name: str
    metavar: str
    help: str

    def value(self, config: pytest.Config) -> str | None:
        """Return the strongest value: the option's, the environment's, the ini file's."""
        key = f"pidoc_benchmark_{self.name}"
        return config.getoption(key) or os.environ.get(key.upper()) or config.getini(key) or None


_OPTIONS = {
    each.name: each
    for each in (
        _Option(
            "metric", "METRIC", f"what pi_benchmark measures: {', '.join(metrics.METRICS)} (default: instructions)"
        ),
        _Option("rounds", "N", "how often pi_benchmark runs a command (default: 3)"),
        _Option("fail", "METRIC:N%,...", "fail a benchmark that is more than that above the baseline"),
        _Option("file", "FILE", f"the baseline (default: {baseline.DEFAULT_FILE} in pytest's root directory)"),
    )
}

_asked = pytest.StashKey["_Asked"]()
_runs = pytest.StashKey["_Run"]()
_counter = pytest.StashKey["_Counter"]()


@dataclass(frozen=True)
class _Asked:
    """What a test's marker and the options ask of its benchmarks."""

    metric: metrics.Metric
    rounds: int
    limits: Mapping[str, float]


@dataclass(frozen=True)
class _Run:
    """What the command line asks of all benchmarks, and what they have said so far."""

    path: Path
    compare: bool
    update: bool
    entries: tuple[baseline.Entry, ...]


@dataclass(frozen=True)
class Result:
    """What a benchmark has found: ``pi_benchmark`` returns it.

    Attributes
    ----------
    entry
        Name, machine, program, and the median of each metric.
    metric
        The metric that was asked for.
    rounds
        How often the command was run.
    spread
        The difference of the most and the least of that metric, as a share of the median.
    floor
        The noise floor: the median of that metric for a command that does nothing. It is in each figure.
    floor_spread
        The difference of the most and the least of it: what differs without a cause.
    """

    entry: baseline.Entry
    metric: str
    rounds: int
    spread: float
    floor: float
    floor_spread: float

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """Return the result that ``dataclasses.asdict`` has made plain."""
        return cls(**{**data, "entry": baseline.Entry.from_dict(data["entry"])})

    @property
    def value(self) -> float:
        """The median of the metric: a count, or seconds."""
        return self.entry.metrics[self.metric]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the benchmarks."""
    group = parser.getgroup("pidoc benchmarks", "benchmarks on emulated Raspberry Pis")
    for option in _OPTIONS.values():
        key = f"pidoc_benchmark_{option.name}"
        described = f"{option.help} [ini: {key}, environment: {key.upper()}]"
        flag = f"--pidoc-benchmark-{option.name}"
        group.addoption(flag, dest=key, default=None, metavar=option.metavar, help=described)
        parser.addini(key, option.help, default=None)
    for name, meaning in (("compare", "show each benchmark beside the baseline"), ("update", "make this the baseline")):
        group.addoption(f"--pidoc-benchmark-{name}", dest=f"pidoc_benchmark_{name}", action="store_true", help=meaning)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read what is asked for, and the baseline if it is needed."""
    config.addinivalue_line("markers", f"{MARKER}: how pi_benchmark measures in this test")
    known = config.pluginmanager.hasplugin("benchmark")
    config.pluginmanager.register(_WithPytestBenchmark() if known else _Alone(), "pidoc_benchmark_table")
    path = config.rootpath / (_OPTIONS["file"].value(config) or baseline.DEFAULT_FILE)
    compare, change = config.getoption("pidoc_benchmark_compare"), config.getoption("pidoc_benchmark_update")
    try:
        limited = _asked_for(config, {}).limits
        if change and (compare or limited):
            limited, compare = {}, False  # what is to be the baseline is not held against the old one
        entries = baseline.read(path) if compare or limited or change else ()
    except PidocError as error:
        raise pytest.UsageError(str(error)) from error
    run = config.stash[_runs] = _Run(path, compare, change, entries)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Book(run), "pidoc_benchmark_book")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Read the markers before anything is booted, and let pytest-benchmark take its figures from us."""
    for item in items:
        if FIXTURE not in getattr(item, "fixturenames", ()):
            continue
        if not hasattr(config, "workerinput"):  # pytest-xdist shows what a worker raises here as its internal error
            _asked_of(item)
        if config.pluginmanager.hasplugin("benchmark"):
            counter = item.stash[_counter] = _Counter()
            given = item.get_closest_marker("benchmark")
            merged = {**(given.kwargs if given else {}), "timer": counter}
            item.add_marker(pytest.mark.benchmark(**merged), append=False)


def prepare(item: pytest.Item, spec: ClusterSpec) -> ClusterSpec:
    """Return what a test that uses ``pi_benchmark`` has to start; *spec* itself if it does not.

    Raises
    ------
    SettingsError
        The model cannot give what is asked for.
    """
    if FIXTURE not in getattr(item, "fixturenames", ()):
        return spec
    asked = _asked_of(item)
    return metrics.prepare(spec, [asked.metric.name, *asked.limits])


def _asked_of(item: pytest.Item) -> _Asked:
    if _asked not in item.stash:
        marker = item.get_closest_marker("pidoc_benchmark")
        try:
            if marker and (marker.args or set(marker.kwargs) - {"metric", "rounds", "fail"}):
                raise SettingsError("The marker pidoc_benchmark has no such argument.", tip=MARKER)
            item.stash[_asked] = _asked_for(item.config, marker.kwargs if marker else {})
        except SettingsError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
    return item.stash[_asked]


def _asked_for(config: pytest.Config, marker: Mapping[str, Any]) -> _Asked:
    given = {name: option.value(config) for name, option in _OPTIONS.items()}
    values = {**given, **{name: value for name, value in marker.items() if value is not None}}
    rounds = str(3 if values["rounds"] is None else values["rounds"])
    if not rounds.isdecimal() or not 1 <= int(rounds) <= MOST_ROUNDS:
        raise SettingsError(f"{rounds} rounds of a benchmark cannot be run.", tip=f"a number from 1 to {MOST_ROUNDS}")
    limits = metrics.limits(str(values["fail"])) if values["fail"] else {}
    return _Asked(metrics.metric(values["metric"] or metrics.DEFAULT_METRIC), int(rounds), limits)


@pytest.fixture
def pi_benchmark(request: pytest.FixtureRequest, _pidoc_benchmark_table: Any) -> PiBenchmark:
    """Return what measures a command in a node: ``pi_benchmark(pi, "./prog args")``."""
    return PiBenchmark(request.node, request.config, _pidoc_benchmark_table)


class PiBenchmark:
    """Measures commands, for one test, and holds them against the baseline if that is asked for."""

    def __init__(self, item: pytest.Item, config: pytest.Config, pytest_benchmark: Any) -> None:
        self._item = item
        self._run = config.stash[_runs]
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
            Seconds of this machine's clock that a round may take.

        Raises
        ------
        BenchmarkError
            It cannot be measured; or, if it is to be compared, there is no baseline for it.
        BenchmarkSlower
            It costs more than the baseline and ``--pidoc-benchmark-fail`` allow.
        """
        from pytest_pidoc.pi_benchmark.measure import EMPTY, conditions, measure

        __tracebackhide__ = True  # the test's own line is what a user wants to see
        asked = self._asked
        full = f"{self._item.nodeid}/{name}" if name else self._item.nodeid
        if full in self._names:
            raise BenchmarkError(
                f"There are two benchmarks of the name {full}.", tip='pi_benchmark(pi, "./prog", name="second")'
            )
        self._names.add(full)
        floor = measure(pi, EMPTY, wanted=asked.metric, rounds=asked.rounds)
        found = measure(pi, command, wanted=asked.metric, setup=setup, rounds=asked.rounds, timeout=timeout)
        values = {metric: found.value(metric) for metric in found.rounds}
        entry = baseline.Entry(full, conditions(pi), command, found.program, values)
        chosen = asked.metric.name
        result = Result(
            *(entry, chosen, asked.rounds),
            *(found.spread(chosen), floor.value(chosen), max(floor.rounds[chosen]) - min(floor.rounds[chosen])),
        )
        self._item.user_properties.append((PROPERTY, json.dumps(asdict(result))))
        self._show(result, found)
        self._hold(entry)
        return result

    def _hold(self, entry: baseline.Entry) -> None:
        """Raise if the benchmark is worse than the baseline, and that is to be looked at."""
        __tracebackhide__ = True
        if self._run.update or not self._asked.limits:
            return
        tip = f"pytest '{self._item.nodeid}' --pidoc-benchmark-update, if that is right"
        try:
            entries = self._run.entries or baseline.read(self._run.path)  # a marker alone can have a limit
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


class _Alone:
    """Without pytest-benchmark."""

    @pytest.fixture
    def _pidoc_benchmark_table(self) -> None:
        """Return nothing: there is no pytest-benchmark."""


class _WithPytestBenchmark:
    """With pytest-benchmark, of whose own fixture the test is then one, too."""

    @pytest.fixture
    def _pidoc_benchmark_table(self, benchmark: Any) -> Any:
        """Return pytest-benchmark's fixture."""
        return benchmark

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_scale_unit(self, unit: str, benchmarks: list[Any]) -> tuple[str, float] | None:
        """Let its table speak of instructions where it would of seconds."""
        if benchmarks and benchmarks[0]["group"] == "pidoc: instructions":
            return ("instruction", 1.0) if unit == "seconds" else ("", 1.0)
        return None


class _Book:
    """What the benchmarks of all processes have found: it is shown at the end, and can become the baseline."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._results: dict[str, tuple[str, Result]] = {}
        self._notes: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the figures of a test that has ended, here or in a worker of pytest-xdist."""
        for name, value in report.user_properties if report.when == "call" else ():
            if name == PROPERTY:
                result = Result.from_dict(json.loads(str(value)))
                self._results[result.entry.name] = report.outcome, result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the baseline, if that is asked for and the run came to its end."""
        if not self._run.update:
            return
        if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
            self._notes.append(f"{self._run.path} is as it was: the run was interrupted.")
            return
        measured = [result.entry for outcome, result in self._results.values() if outcome == "passed"]
        try:
            total = baseline.update(self._run.path, measured) if measured else len(self._run.entries)
            self._notes.append(f"{self._run.path}: {len(measured)} benchmarks are new, of {total}.")
        except BenchmarkError as error:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._notes.append(str(error))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
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
        """Return how a figure differs from the baseline, or why it cannot be compared."""
        try:
            old = baseline.find(self._run.entries, result.entry, path=self._run.path)
        except BenchmarkError as error:
            return "; ".join(error.evidence.splitlines()) or "none"
        before = old.metrics.get(result.metric)
        return "none" if before is None else baseline.change(before, result.value)
