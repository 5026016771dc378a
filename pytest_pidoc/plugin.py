"""The pytest plugin: options, the marker ``pidoc``, the fixtures, and the evidence of failed tests.

It imports nothing heavy: a test run that uses no Pi must not notice it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pidoc.errors import EngineUnavailable, PidocError, SettingsError
from pytest_pidoc.settings import MARKER_SIGNATURE, OPTIONS, ClusterSpec, Settings

if TYPE_CHECKING:
    import fabric

    from pytest_pidoc.cluster import Cluster
    from pytest_pidoc.images.image import Image
    from pytest_pidoc.node import Node
    from pytest_pidoc.progress import Progress

__all__ = ["ClusterPool", "boot_pi", "pi", "pi_cluster", "pi_connection", "pidoc_image", "pidoc_settings"]

_settings = pytest.StashKey[Settings]()
_pool = pytest.StashKey["ClusterPool"]()
_clusters = pytest.StashKey[list["Cluster"]]()
_failed = pytest.StashKey[bool]()
_kept = pytest.StashKey[list[str]]()

SERIAL_LINES = 30  # of each node, in the report of a failed test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add every setting as an option and as an ini value."""
    group = parser.getgroup("pidoc", "emulated Raspberry Pis")
    for option in OPTIONS:
        described = f"{option.help} [ini: {option.ini}, environment: {option.variable}]"
        if option.metavar:
            group.addoption(option.option, dest=option.ini, default=None, metavar=option.metavar, help=described)
        else:
            group.addoption(option.option, dest=option.ini, default=None, action="store_true", help=described)
        parser.addini(option.ini, option.help, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, and register the marker."""
    config.addinivalue_line("markers", f"{MARKER_SIGNATURE}: run the test on emulated Raspberry Pis")
    try:
        config.stash[_settings] = Settings.load(
            {option.name: config.getoption(option.ini) for option in OPTIONS},
            ini={option.name: config.getini(option.ini) for option in OPTIONS},
        )
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the clusters outlive the run that are to, and tell a controlling process of pytest-xdist of them."""
    config = session.config
    if _pool not in config.stash:
        return
    pool = config.stash[_pool]
    if config.stash[_settings].keep == "always":
        pool.keep_all()
    if hasattr(config, "workeroutput"):
        config.workeroutput["pidoc_kept"] = pool.kept
    else:
        config.stash.setdefault(_kept, []).extend(pool.kept)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from a worker of pytest-xdist which nodes stay up."""
    kept = getattr(node, "workeroutput", {}).get("pidoc_kept", [])
    node.config.stash.setdefault(_kept, []).extend(kept)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how to reach the nodes that stay up, and how to end them."""
    if kept := config.stash.get(_kept, []):
        terminalreporter.section("nodes that stay up")
        for line in kept:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take down every cluster that this process started."""
    if _pool in config.stash:
        config.stash[_pool].close()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Show the settings that somebody chose, and where."""
    settings = config.stash[_settings]
    chosen = [f"{name} {getattr(settings, name)} (from {source})" for name, source in settings.sources.items()]
    return f"pidoc: {', '.join(chosen)}" if chosen else None


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Refuse a bad marker before anything is booted for another test."""
    if hasattr(config, "workerinput"):
        return  # pytest-xdist shows what a worker raises here as its own internal error: the fixtures say it instead
    for item in items:
        if item.get_closest_marker("pidoc"):
            _read_marker(item, config.stash[_settings])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of every node's serial log to the report of a failure, and keep the logs."""
    report = yield
    clusters = item.stash.get(_clusters, [])
    if report.failed and clusters:
        item.stash[_failed] = True
        _add_evidence(report, clusters, item.config.stash[_pool].artifacts)
    return report


@pytest.fixture(scope="session")
def pidoc_settings(pytestconfig: pytest.Config) -> Settings:
    """Return the settings of this run, each with where it came from."""
    return pytestconfig.stash[_settings]


@pytest.fixture(scope="session")
def pidoc_image(pidoc_settings: Settings, pytestconfig: pytest.Config) -> Image:
    """Return the image of the default model, built or pulled if it is not there."""
    from pytest_pidoc.provision import provision

    with _unavailable_skips(pidoc_settings):
        return provision(pidoc_settings.spec(), pidoc_settings, _progress(pytestconfig)).image


@pytest.fixture(scope="session")
def _pidoc_pool(
    pidoc_settings: Settings, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> ClusterPool:
    """Return the clusters of this process. They end in `pytest_unconfigure`, which also comes after a Ctrl-C."""
    artifacts = pidoc_settings.artifacts or tmp_path_factory.getbasetemp() / "pidoc"
    pool = ClusterPool(replace(pidoc_settings, artifacts=artifacts), artifacts)
    pytestconfig.stash[_pool] = pool
    return pool


@pytest.fixture
def pi_cluster(request: pytest.FixtureRequest, pidoc_settings: Settings, _pidoc_pool: ClusterPool) -> Iterator[Cluster]:
    """Give the nodes that the marker ``pidoc`` asks for; tests with the same marker share them."""
    spec, fresh = _read_marker(request.node, pidoc_settings)
    start = _pidoc_pool.start if fresh else _pidoc_pool.get
    with _unavailable_skips(pidoc_settings):
        cluster = start(spec, _progress(request.config))
    request.node.stash.setdefault(_clusters, []).append(cluster)
    yield cluster
    if _is_to_be_kept(request.node, pidoc_settings):
        _pidoc_pool.keep(cluster)
    elif fresh:
        _pidoc_pool.end(cluster)
    else:
        _pidoc_pool.put_right(cluster)


@pytest.fixture
def pi(pi_cluster: Cluster) -> Node:
    """Return the first node that the marker ``pidoc`` asks for."""
    return pi_cluster[0]


@pytest.fixture
def pi_connection(pi: Node) -> fabric.Connection:
    """Return the first node's ``fabric.Connection``."""
    return pi.connection


@pytest.fixture
def boot_pi(
    request: pytest.FixtureRequest, pidoc_settings: Settings, _pidoc_pool: ClusterPool
) -> Iterator[Callable[..., Cluster]]:
    """Return a factory: ``boot_pi(nodes=2, model="pi3-virt")`` gives private nodes, gone when the test ends."""
    started: list[Cluster] = []

    def boot(nodes: int | None = None, **arguments: Any) -> Cluster:
        spec = pidoc_settings.spec({"nodes": nodes, **arguments}, where="boot_pi")
        with _unavailable_skips(pidoc_settings):
            cluster = _pidoc_pool.start(spec, _progress(request.config))
        started.append(cluster)
        request.node.stash.setdefault(_clusters, []).append(cluster)
        return cluster

    yield boot
    for cluster in reversed(started):
        if _is_to_be_kept(request.node, pidoc_settings):
            _pidoc_pool.keep(cluster)
        else:
            _pidoc_pool.end(cluster)


class ClusterPool:
    """The clusters of one pytest process, from the first test that needs them until the process ends."""

    def __init__(self, settings: Settings, artifacts: Path) -> None:
        self.artifacts = artifacts
        """Where evidence is kept."""
        self._settings = settings
        self._shared: dict[ClusterSpec, Cluster] = {}
        self._all: list[Cluster] = []
        self._left: list[Cluster] = []
        self.kept: list[str] = []
        """How to reach the nodes that outlive this process, and how to end them."""

    def get(self, spec: ClusterSpec, progress: Progress) -> Cluster:
        """Return the shared cluster for *spec*; it is started if there is none, or if a part of it is of no use."""
        cluster = self._shared.get(spec)
        if cluster is not None and (cluster.switch_is_gone or any(node.death() or node.panicked() for node in cluster)):
            self.end(cluster)
            cluster = None
        if cluster is None:
            cluster = self._shared[spec] = self.start(spec, progress)
        return cluster

    def start(self, spec: ClusterSpec, progress: Progress) -> Cluster:
        """Start a cluster that is nobody else's."""
        from pytest_pidoc.cluster import Cluster

        cluster = Cluster.from_spec(spec, self._settings, progress=progress)
        self._all.append(cluster)
        return cluster

    def put_right(self, cluster: Cluster) -> None:
        """Undo what the test that has ended did; a cluster that cannot be put right is not given to another."""
        errors = cluster.faults.undo_all()
        cluster.faults.clear()
        for forward in [forward for node in cluster for forward in node.forwards]:
            try:
                forward.close()
            except PidocError as error:
                errors.append(error)
        if errors:
            self.end(cluster)
            warnings.warn(f"{cluster.name} is given up: {errors[0]}", RuntimeWarning, stacklevel=2)

    def keep(self, cluster: Cluster) -> None:
        """Let a cluster outlive this process as it is, with its faults; no other test gets it."""
        self._forget(cluster)
        self._left.append(cluster)  # a process that is to go on must not be told of by Python as forgotten
        cluster.keep()
        self.kept += [f"pidoc ssh {cluster.name}/{node.name}" for node in cluster]
        self.kept.append(f"pidoc down {cluster.name}")

    def keep_all(self) -> None:
        """Let all clusters outlive this process."""
        for cluster in list(self._all):
            self.keep(cluster)

    def _forget(self, cluster: Cluster) -> None:
        self._shared = {spec: other for spec, other in self._shared.items() if other is not cluster}
        self._all.remove(cluster)

    def end(self, cluster: Cluster) -> None:
        """Take a cluster down."""
        self._forget(cluster)
        cluster.down()

    def close(self) -> None:
        """Take all clusters down."""
        while self._all:
            self._all.pop().down()
        self._shared.clear()


def _is_to_be_kept(item: pytest.Item, settings: Settings) -> bool:
    """Tell whether the clusters of a test outlive the run, because it has failed."""
    return settings.keep == "on-failure" and item.stash.get(_failed, False)


def _read_marker(item: pytest.Item, settings: Settings) -> tuple[ClusterSpec, bool]:
    """Return what the closest marker asks for, and whether it wants nodes of its own."""
    marker = item.get_closest_marker("pidoc")
    if marker is None:
        return settings.spec(), False
    arguments = dict(marker.kwargs)
    try:
        if len(marker.args) > 1 or (marker.args and "nodes" in arguments):
            raise SettingsError("The marker pidoc takes one argument without a name: nodes.", tip=MARKER_SIGNATURE)
        if marker.args:
            arguments["nodes"] = marker.args[0]
        fresh = arguments.pop("fresh", False)
        if not isinstance(fresh, bool):
            raise SettingsError(f"fresh of the marker pidoc: {fresh!r} is not True or False.", tip=MARKER_SIGNATURE)
        return settings.spec(arguments), fresh
    except SettingsError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


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
    from pytest_pidoc.terminal import PytestProgress

    return PytestProgress(config)


def _add_evidence(report: pytest.TestReport, clusters: Sequence[Cluster], base: Path) -> None:
    from pytest_pidoc.artifacts import folder_name, keep

    folder = base / folder_name(report.nodeid)
    for cluster in clusters:
        target = folder if len(clusters) == 1 else folder / cluster.name
        try:
            keep([node.directory for node in cluster], target)
            place = f"The rest is in {target}"
        except OSError as error:
            place = f"The rest could not be kept in {target}: {error.strerror}"
        if cluster.switch_is_gone:
            report.sections.append((f"LAN of {cluster.name}", "The switch is gone: no node reaches another."))
        if faults := cluster.faults.all():
            report.sections.append((f"faults of {cluster.name}", "\n".join(map(str, faults))))
        for node in cluster:
            tail = node.serial_log.tail(SERIAL_LINES) or "(nothing)"
            report.sections.append((f"{node.name} serial log, last lines", f"{tail}\n\n{place}"))
