"""What every run of pytest has of the benchmarks: the marker, the fixture's name, and who looks for its first use.

The fixture itself, the baseline and the table are imported when a test asks for ``pi_benchmark``, when figures of one
arrive from a worker of pytest-xdist, or when an option asks for the baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_pidoc.errors import PidocError
from pytest_pidoc.pi_benchmark.options import CHOSEN, FIXTURE, PROPERTY, SIGNATURE

if TYPE_CHECKING:
    from pytest_pidoc.pi_benchmark.fixture import Book, PiBenchmark
    from pytest_pidoc.settings.spec import ClusterSpec

__all__ = ["add_flags", "pi_benchmark", "spec_for_benchmarks"]

_book = pytest.StashKey["Book"]()


def add_flags(group: pytest.OptionGroup) -> None:
    """Add what is asked of one run, on its command line alone."""
    for name, meaning in (
        ("compare", "show each benchmark beside the baseline"),
        ("update", "make this run the baseline"),
    ):
        group.addoption(f"--pidoc-benchmark-{name}", dest=f"pidoc_benchmark_{name}", action="store_true", help=meaning)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and read the baseline if an option asks for it."""
    config.addinivalue_line("markers", f"{SIGNATURE}: how pi_benchmark measures in this test")
    known = config.pluginmanager.hasplugin("benchmark")
    config.pluginmanager.register(_WithPytestBenchmark() if known else _Alone(), "pidoc_benchmark_table")
    update = config.getoption("pidoc_benchmark_update")
    if update or config.getoption("pidoc_benchmark_compare") or "benchmark_fail" in config.stash[CHOSEN].values:
        from pytest_pidoc.pi_benchmark.fixture import asked_of_run

        try:
            asked_of_run(config)
        except PidocError as error:
            raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Watch(config), "pidoc_benchmark_watch")
        if update:
            _book_of(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Show what somebody chose for benchmarks, and where."""
    chosen = config.stash[CHOSEN]
    return f"pidoc benchmarks: {chosen}" if chosen.values else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Read the markers before anything is booted, and let pytest-benchmark take its figures from us."""
    using = [item for item in items if _uses(item)]
    if using:
        from pytest_pidoc.pi_benchmark.fixture import collected

        collected(using, config)


class _Watch:
    """Hears the figures of tests that have ended, here or in a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take them."""
        if report.when == "call":
            for name, value in report.user_properties:
                if name == PROPERTY:
                    _book_of(self._config).add(report.outcome, str(value))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the baseline, if that is asked for."""
    if _book in session.config.stash:
        session.config.stash[_book].finish(session, exitstatus)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures."""
    if _book in config.stash:
        config.stash[_book].show(terminalreporter)


@pytest.fixture
def pi_benchmark(request: pytest.FixtureRequest, _pidoc_benchmark_table: Any) -> PiBenchmark:
    """Return what measures a command in a node: ``pi_benchmark(pi, "./prog args")``."""
    from pytest_pidoc.pi_benchmark.fixture import PiBenchmark

    return PiBenchmark(request.node, request.config, _pidoc_benchmark_table)


def spec_for_benchmarks(item: pytest.Item, spec: ClusterSpec) -> ClusterSpec:
    """Return what a test that uses ``pi_benchmark`` has to start; *spec* itself if it does not.

    Raises
    ------
    SettingsError
        The model cannot give what is asked for.
    """
    if not _uses(item):
        return spec
    from pytest_pidoc.pi_benchmark.fixture import spec_that_measures

    return spec_that_measures(item, spec)


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


def _uses(item: pytest.Item) -> bool:
    return FIXTURE in getattr(item, "fixturenames", ())


def _book_of(config: pytest.Config) -> Book:
    if _book not in config.stash:
        from pytest_pidoc.pi_benchmark.fixture import Book, asked_of_run

        config.stash[_book] = Book(asked_of_run(config))
    return config.stash[_book]
