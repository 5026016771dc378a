"""The pytest plugin: options, the marker ``pidoc``, the fixtures, and the evidence of failed tests.

It imports nothing heavy: a test run that uses no Pi must not notice it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pidoc.errors import EngineUnavailable, SettingsError
from pytest_pidoc.pi_benchmark import hooks as benchmark_hooks
from pytest_pidoc.pi_benchmark.options import CHOSEN as CHOSEN_FOR_BENCHMARKS
from pytest_pidoc.pi_benchmark.options import OPTIONS as BENCHMARK_OPTIONS
from pytest_pidoc.settings.table import MARKER_SIGNATURE, OPTIONS
from pytest_pidoc.testrun.marker import read_marker, unheard
from pytest_pidoc.values.options import Chosen, Option, choose

if TYPE_CHECKING:
    import fabric

    from pytest_pidoc.cluster import Cluster
    from pytest_pidoc.images.store.image import Image
    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings
    from pytest_pidoc.testrun.boots import Boots
    from pytest_pidoc.testrun.failures import Held
    from pytest_pidoc.testrun.pool import ClusterPool
    from pytest_pidoc.testrun.run import Run
    from pytest_pidoc.values.progress import Progress

__all__ = [
    "boot_pi",
    "pi",
    "pi_cluster",
    "pi_connection",
    "pidoc_boot",
    "pidoc_cluster",
    "pidoc_image",
    "pidoc_settings",
]

_chosen = pytest.StashKey[Chosen]()
_settings = pytest.StashKey["Settings"]()
_pool = pytest.StashKey["ClusterPool"]()
_boots = pytest.StashKey["Boots"]()
_running = pytest.StashKey[pytest.Item]()
_run = pytest.StashKey["Run"]()
_held = pytest.StashKey[list["Held"]]()
_failed = pytest.StashKey[bool]()
_kept = pytest.StashKey[list[str]]()
#: In its own tables in TOML, pytest 9 takes values as they are, and since 9.2 of more than one type.
INI_TYPE: Any = str | int | float | bool if pytest.version_tuple >= (9, 2) else None

#: Where evidence may be, and the identity of the process that wrote it.
_evidence = pytest.StashKey[list[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add every setting as an option and as an ini value."""
    for name, about, rows in (
        ("pidoc", "emulated Raspberry Pis", OPTIONS),
        ("pidoc benchmarks", "benchmarks on emulated Raspberry Pis", BENCHMARK_OPTIONS),
    ):
        group = parser.getgroup(name, about)
        for option in rows:
            described = f"{option.help} [ini: {option.ini}, environment: {option.variable}]"
            kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"action": "store_true"}
            group.addoption(option.option, dest=option.ini, default=None, help=described, **kind)
            parser.addini(option.ini, option.help, type=INI_TYPE, default=None)
    benchmark_hooks.add_flags(group)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, and register the marker."""
    config.addinivalue_line("markers", f"{MARKER_SIGNATURE}: run the test on emulated Raspberry Pis")
    try:
        config.stash[_chosen] = _choose(config, OPTIONS)
        config.stash[CHOSEN_FOR_BENCHMARKS] = _choose(config, BENCHMARK_OPTIONS)
    except (SettingsError, TypeError) as error:  # a TypeError of getini, which is a UsageError since pytest 9.2
        raise pytest.UsageError(str(error)) from error
    # Not by pytest_plugins, for whose sake pytest reads the metadata of every distribution once more.
    config.pluginmanager.register(benchmark_hooks, "pidoc_benchmarks")


def _choose(config: pytest.Config, rows: Sequence[Option]) -> Chosen:
    options = {option.name: config.getoption(option.ini) for option in rows}
    ini = {option.name: config.getini(option.ini) for option in rows}
    return choose(rows, options, os.environ, ini, places=(Path.cwd(), config.rootpath))


def _settings_of(config: pytest.Config) -> Settings:
    """Return the settings of this run; their classes are imported when a test needs nodes."""
    if _settings not in config.stash:
        from pytest_pidoc.settings.spec import Settings

        chosen = config.stash[_chosen]
        config.stash[_settings] = Settings(**chosen.values, sources=chosen.sources)
    return config.stash[_settings]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Keep the clusters that outlive the run, and report them to the controlling process of pytest-xdist."""
    config, keep_all = session.config, session.config.stash[_chosen].values.get("keep") == "always"
    kept = config.stash.setdefault(_kept, [])
    if _boots in config.stash:
        config.stash[_boots].tests_are_over = True
    yield  # after a Ctrl-C, the fixtures end here
    if _boots in config.stash:
        config.stash[_boots].end_late()
    if _run in config.stash and keep_all:
        kept += config.stash[_run].keep()
    if _pool in config.stash:
        if keep_all:
            config.stash[_pool].keep_all()
        kept += config.stash[_pool].kept
    if hasattr(config, "workeroutput"):
        config.workeroutput["pidoc_kept"] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the workers of pytest-xdist share clusters, which end with this process."""
    from pytest_pidoc.testrun.run import Run

    if _run not in node.config.stash:
        node.config.stash[_run] = Run.new()
    run = node.config.stash[_run]
    node.workerinput["pidoc_run"] = (run.name, run.owner)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Note which nodes of a pytest-xdist worker stay up; of a crashed worker keep the logs and end the nodes."""
    from pytest_pidoc.host import processes, records
    from pytest_pidoc.testrun import failures
    from pytest_pidoc.testrun.run import end_torn

    config, output = node.config, getattr(node, "workeroutput", {})
    config.stash.setdefault(_kept, []).extend(output.get("pidoc_kept", []))
    if error:
        run, base = config.stash[_run], _settings_of(config).artifacts or records.failed_directory()
        failures.keep_after_crash(error, [record.directory for record in run.clusters()], base)
        config.stash.setdefault(_evidence, []).append((str(base), processes.own()))
        end_torn(run)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the logs of failed tests, and how to reach and end nodes that are still running."""
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    places = [tuple(report.pidoc_evidence) for report in reports if hasattr(report, "pidoc_evidence")]
    if folders := _folders([*places, *config.stash.get(_evidence, [])]):
        terminalreporter.section("pidoc: logs of failed tests")
        for folder in folders:
            terminalreporter.write_line(str(folder))
    if kept := config.stash.get(_kept, []):
        terminalreporter.section("pidoc: nodes that are still running")
        for line in dict.fromkeys(kept):
            terminalreporter.write_line(line)


def _folders(places: list[tuple[str, str]]) -> list[Path]:
    if not places:
        return []
    from pytest_pidoc.lifecycle import artifacts

    return [folder for base, run in dict.fromkeys(places) for folder in artifacts.folders_of_run(Path(base), run)]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take down every cluster that this process owns."""
    if _pool in config.stash:
        config.stash[_pool].close()
    if _run in config.stash:  # this process has workers, which have ended
        from pytest_pidoc.lifecycle import reaper

        reaper.reap_run(config.stash[_run].name, config.stash[_run].owner)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Show the settings that somebody chose, and where."""
    chosen = config.stash[_chosen]
    return f"pidoc: {chosen}" if chosen.values else None


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Refuse a bad marker before anything is booted for another test."""
    if hasattr(config, "workerinput"):
        return  # pytest-xdist shows what a worker raises here as its own internal error: the fixtures say it instead
    for item in items:
        if item.get_closest_marker("pidoc") or "pi_benchmark" in getattr(item, "fixturenames", ()):
            read_marker(item, _settings_of(config))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which test runs: fixtures of a wider scope do not know for which one they are set up."""
    item.config.stash[_running] = item
    item.stash[_held] = []  # if it is run again, it has other nodes


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Refuse a marker that no fixture of the test has heard."""
    if _boots in item.config.stash and (wrong := unheard(item, _settings_of(item.config))):
        pytest.fail(wrong, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of every node's serial log to the report of a failure, and keep the logs."""
    with _short_traceback(item, call):
        report = yield
    if _pool not in item.config.stash:
        return report
    from pytest_pidoc.host import processes
    from pytest_pidoc.testrun import failures

    base = item.config.stash[_pool].artifacts
    # Also of a test that passes: a start can have failed in it. A report reaches the one who sums up, whatever happens
    # to the process that made it.
    report.pidoc_evidence = (str(base), processes.own())  # type: ignore[attr-defined] # pytest hands on what it has
    held = [each for each in item.stash.get(_held, []) if each.cluster.directory.exists()]
    if report.failed and held:
        item.stash[_failed] = True
        if _boots in item.config.stash:
            item.config.stash[_boots].have_failed(each.cluster for each in held)
        report.sections += failures.keep_of_test(report.nodeid, report.when, held, base)
        for told in failures.properties_of_test(report.nodeid, base):
            # The item's go into the report of its teardown, which is the one that --junit-xml reads.
            for properties in (item.user_properties, report.user_properties):
                if told not in properties:
                    properties.append(told)
    return report


def _short_traceback(item: pytest.Item, call: pytest.CallInfo[None]) -> contextlib.AbstractContextManager[None]:
    """Let the report show no frames below the test's own, unless all are asked for."""
    if call.excinfo is None or "pytest_pidoc.node" not in sys.modules or item.config.getoption("fulltrace"):
        return contextlib.nullcontext()
    from pytest_pidoc.testrun import tracebacks

    return tracebacks.ending_at_the_test(call.excinfo, had_nodes=bool(item.stash.get(_held, [])))


@pytest.fixture(scope="session")
def pidoc_settings(pytestconfig: pytest.Config) -> Settings:
    """Return the settings of this run, each with where it came from."""
    return _settings_of(pytestconfig)


@pytest.fixture(scope="session")
def pidoc_image(pidoc_settings: Settings, pytestconfig: pytest.Config) -> Image:
    """Return the image of the default model, built or pulled if it is not there."""
    from pytest_pidoc.lifecycle.provision import provision

    with _unavailable_skips(pidoc_settings):
        return provision(pidoc_settings.spec(), pidoc_settings, _progress(pytestconfig)).image


@pytest.fixture(scope="session")
def _pidoc_pool(
    pidoc_settings: Settings, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> ClusterPool:
    """Return the clusters of this run. They end in `pytest_unconfigure`, which also comes after a Ctrl-C."""
    from pytest_pidoc.testrun.pool import ClusterPool

    artifacts = pidoc_settings.artifacts or tmp_path_factory.getbasetemp() / "pidoc"
    pool = ClusterPool(replace(pidoc_settings, artifacts=artifacts), artifacts, _run_of(pytestconfig))
    pytestconfig.stash[_pool] = pool
    return pool


@pytest.fixture
def pi_cluster(request: pytest.FixtureRequest, pidoc_settings: Settings, _pidoc_pool: ClusterPool) -> Iterator[Cluster]:
    """Give the nodes that the marker ``pidoc`` asks for; tests with the same marker use the same ones in turn."""
    asked, progress = read_marker(request.node, pidoc_settings), _progress(request.config)
    with _unavailable_skips(pidoc_settings):
        if asked.fresh:
            cluster = _pidoc_pool.start(asked.spec, progress, user=request.node.nodeid)
        else:
            cluster = _pidoc_pool.get(asked.spec, progress, user=request.node.nodeid, shared=asked.shared)
    _note(request.node, cluster)
    yield cluster
    _end_use(request.node, pidoc_settings, _pidoc_pool, cluster)


@pytest.fixture
def pi(pi_cluster: Cluster) -> Node:
    """Return the first node that the marker ``pidoc`` asks for."""
    return pi_cluster[0]


@pytest.fixture
def pi_connection(pi: Node) -> fabric.Connection:
    """Return the first node's ``fabric.Connection``."""
    return pi.connection


@pytest.fixture(scope="session")
def _pidoc_boots(
    pidoc_settings: Settings, request: pytest.FixtureRequest, pytestconfig: pytest.Config, _pidoc_pool: ClusterPool
) -> Boots:
    """Return what knows whose the nodes of ``pidoc_boot`` are."""
    from pytest_pidoc.testrun.boots import Boots

    boots = Boots(
        _pidoc_pool,
        pidoc_settings.keep,
        request.session,
        running=lambda: pytestconfig.stash.get(_running, None),
        note=_note,
    )
    pytestconfig.stash[_boots] = boots
    pytestconfig.pluginmanager.register(boots, "pidoc_boots")
    return boots


@pytest.fixture(scope="session")
def pidoc_boot(
    pidoc_settings: Settings, pytestconfig: pytest.Config, _pidoc_boots: Boots
) -> Iterator[Callable[..., Cluster]]:
    """Return a factory for fixtures of any scope; its nodes live until their ``with`` block ends, or the session."""

    def boot(nodes: int | None = None, **arguments: Any) -> Cluster:
        boots = _pidoc_boots
        spec = pidoc_settings.spec({"nodes": nodes, **arguments}, where=boots.caller, places=boots.places())
        if boots.test is not None:
            spec = benchmark_hooks.spec_for_benchmarks(boots.test, spec)
        with _unavailable_skips(pidoc_settings):
            return boots.start(spec, _progress(pytestconfig))

    yield boot
    _pidoc_boots.leave_all()


@pytest.fixture(scope="session")
def pidoc_cluster(pidoc_boot: Callable[..., Cluster]) -> Iterator[Cluster]:
    """Give the nodes that the settings ask for until the session ends, as tests leave them."""
    with pidoc_boot() as cluster:
        yield cluster


@pytest.fixture
def boot_pi(
    request: pytest.FixtureRequest, pidoc_boot: Callable[..., Cluster], _pidoc_boots: Boots
) -> Iterator[Callable[..., Cluster]]:
    """Return a factory: ``boot_pi(nodes=2, model="pi3-virt")`` gives private nodes, gone when the test ends."""
    with contextlib.ExitStack() as ending:

        def boot(nodes: int | None = None, **arguments: Any) -> Cluster:
            with _pidoc_boots.for_test(request.node, "boot_pi"):
                return ending.enter_context(pidoc_boot(nodes, **arguments))

        yield boot


def _run_of(config: pytest.Config) -> Run:
    """Return the run that the workers of pytest-xdist take part in, or one of this process's own."""
    from pytest_pidoc.host import processes
    from pytest_pidoc.testrun.run import Run

    if given := getattr(config, "workerinput", {}).get("pidoc_run"):
        run = Run(*given)
        # The controlling process of a worker on another host does not run on this one.
        if _settings_of(config).workers == "shared" and processes.is_alive(run.owner):
            return run
    return Run.new()


def _note(item: pytest.Item, cluster: Cluster) -> None:
    """Note which cluster a test has, and since when."""
    from pytest_pidoc.testrun.failures import Held

    held = item.stash.setdefault(_held, [])
    if not any(each.cluster is cluster for each in held):
        held.append(Held.now(cluster))


def _end_use(item: pytest.Item, settings: Settings, pool: ClusterPool, cluster: Cluster) -> None:
    """Give a test's cluster back, or let it outlive the run if it is to when the test has failed."""
    if settings.keep == "on-failure" and item.stash.get(_failed, False):
        pool.keep(cluster)
    else:
        pool.give_back(cluster)


@contextlib.contextmanager
def _unavailable_skips(settings: Settings) -> Iterator[None]:
    """Skip the test where no engine can be used; fail it with ``--pidoc-require``."""
    try:
        yield
    except EngineUnavailable as error:
        if settings.require:
            raise
        pytest.skip(str(error))


def _progress(config: pytest.Config) -> Progress:
    from pytest_pidoc.testrun.terminal import PytestProgress

    return PytestProgress(config)
