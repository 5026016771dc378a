"""The clusters of ``pidoc_boot`` and ``boot_pi``: which tests have them, when they end, and which outlive the run.

The factory has the scope of the session and is not told who calls it. So it hears which fixture is being set up: what
that asks for is had by every test that uses the fixture. What nobody ends goes with the session.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pidoc.cluster import Cluster

if TYPE_CHECKING:
    from pytest_pidoc.lifecycle.attempt import Started
    from pytest_pidoc.settings.spec import ClusterSpec
    from pytest_pidoc.testrun.pool import ClusterPool
    from pytest_pidoc.values.progress import Progress

__all__ = ["Boots"]

FACTORY = "pidoc_boot"


class BootedCluster(Cluster):
    """A cluster that ends with its ``with`` block, or outlives the run if that is asked for."""

    def __init__(self, started: Started, boots: Boots) -> None:
        super().__init__(started)
        self._boots: Boots | None = boots
        self._kept = False

    def down(self) -> None:
        """End all nodes, unless they are to outlive the run; calling it again does nothing."""
        boots, self._boots = self._boots, None
        if boots is not None:
            boots.end(self)  # which comes back here, or to `keep`
        elif not self._kept:
            super().down()

    def keep(self) -> None:
        """Let the nodes outlive the run, until ``pidoc down``, and close the connections to them."""
        super().keep()
        self._boots, self._kept = None, True

    def __exit__(self, *raised: object) -> None:
        if self._boots is not None:
            self._boots.leave(self, failed=any(raised))


@dataclass(frozen=True)
class _Asker:
    """Who has asked for nodes.

    Attributes
    ----------
    fixture
        The fixture that was being set up. Nodes that were asked for elsewhere are the factory's, since every test that
        has the factory can have them.
    place
        What it is set up for: a session, a package, a module, a class or a test.
    definition
        Tells the fixture from others of that name.
    """

    fixture: str
    place: pytest.Item | pytest.Collector
    definition: pytest.FixtureDef[Any] | None = None

    @property
    def is_wide(self) -> bool:
        """Whether more than one test can have the nodes."""
        return not isinstance(self.place, pytest.Item)

    def __str__(self) -> str:
        worker = os.environ.get("PYTEST_XDIST_WORKER")
        where = [self.place.nodeid] if self.place.nodeid else [f"the worker {worker}"] if worker else []
        return " of ".join([f"the fixture {self.fixture}", *where]) if self.is_wide else self.place.nodeid


@dataclass
class _Booted:
    """A cluster that is up, and whose it is."""

    cluster: Cluster
    asker: _Asker
    is_over: bool = False
    """Whether the fixture that asked for it has ended, so that no further test has it."""


class Boots:
    """What ``pidoc_boot`` has started in this process; a plugin of pytest that hears which fixture asks.

    Parameters
    ----------
    pool
        Starts and ends clusters.
    keep
        Which of them outlive the run: ``never``, ``on-failure`` or ``always``.
    session
        The session, with which all others end.
    running
        Returns the test that runs, if one does.
    note
        Notes that a test has a cluster from now on, unless it is known.
    """

    def __init__(
        self,
        pool: ClusterPool,
        keep: str,
        session: pytest.Session,
        *,
        running: Callable[[], pytest.Item | None],
        note: Callable[[pytest.Item, Cluster], None],
    ) -> None:
        self.caller = FACTORY
        """How the factory is called that is called now."""
        self.test: pytest.Item | None = None
        """The test for which alone nodes are asked for now, by ``boot_pi``."""
        self.tests_are_over = False
        """Whether no further test comes."""
        self._pool = pool
        self._keep = keep
        self._session = session
        self._running = running
        self._note = note
        self._open: dict[str, _Booted] = {}
        self._late: list[Cluster] = []
        self._failed: set[str] = set()
        self._in_set_up: list[_Asker] = []
        self._in_teardown = False

    @contextlib.contextmanager
    def for_test(self, test: pytest.Item, caller: str) -> Iterator[None]:
        """Let what is asked for in this block be the nodes of a test, by a factory of another name."""
        self.test, self.caller = test, caller
        try:
            yield
        finally:
            self.test, self.caller = None, FACTORY

    def places(self) -> tuple[Path, ...]:
        """Return the folders in which relative paths are looked for: that of who asks for nodes, and the root."""
        asker = self._asker()
        code = getattr(asker.definition and asker.definition.func, "__code__", None)  # a functools.partial has none
        file = asker.place.path if code is None else Path(code.co_filename)
        return (file if file.is_dir() else file.parent), self._session.config.rootpath

    def start(self, spec: ClusterSpec, progress: Progress) -> Cluster:
        """Start a cluster until it is ended; see `ClusterPool.get` for what it raises."""
        asker = self._asker()
        cluster = self._pool.start(spec, progress, user=str(asker), kind=lambda started: BootedCluster(started, self))
        self._open[cluster.name] = _Booted(cluster, asker)
        if (test := self._running()) is not None:
            self._note(test, cluster)
        return cluster

    def end(self, cluster: Cluster) -> None:
        """End a cluster, or let it outlive the run."""
        booted = self._open.pop(cluster.name, None)
        if booted is not None and self._is_kept(booted):
            self._pool.keep(cluster)
        else:
            self._pool.give_back(cluster)

    def leave(self, cluster: Cluster, *, failed: bool) -> None:
        """End a cluster at the end of its block: after the report of a failure, which shows how the nodes are."""
        test = self._running()
        if test is None or not (failed or self._in_teardown):
            cluster.down()
            return
        self._note(test, cluster)
        self._late.append(cluster)

    def leave_all(self) -> None:
        """End all clusters, the last one first, after the reports of what fails now."""
        self._late += [booted.cluster for booted in reversed(self._open.values()) if booted.cluster not in self._late]

    def end_late(self) -> None:
        """End the clusters whose block has ended, and whose tests are reported."""
        while self._late:
            self._late.pop(0).down()

    def have_failed(self, clusters: Iterable[Cluster]) -> None:
        """Note that a test has failed that had these."""
        self._failed.update(cluster.name for cluster in clusters)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
        """Note which fixture is being set up."""
        __tracebackhide__ = True
        self._in_set_up.append(_Asker(fixturedef.argname, request.node, fixturedef))
        try:
            return (yield)
        finally:
            self._in_set_up.pop()

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Note that a fixture has ended; what it has not is nobody's."""
        for booted in self._open.values():
            booted.is_over |= booted.asker.definition is fixturedef

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Let a test have what the fixtures that it uses have asked for."""
        self.tests_are_over = False  # it is run again
        for booted in self._open.values():
            if self._is_had(booted, item):
                self._note(item, booted.cluster)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        """End what its block left to the report; from now on that is the report of the teardown."""
        self.end_late()
        self._in_teardown, self.tests_are_over = True, nextitem is None

    def pytest_runtest_logfinish(self) -> None:
        """End what ended in the teardown."""
        self._in_teardown = False
        self.end_late()

    def _asker(self) -> _Asker:
        if self.test is not None:
            return _Asker(self.caller, self.test)
        return self._in_set_up[-1] if self._in_set_up else _Asker(FACTORY, self._session)

    def _is_had(self, booted: _Booted, test: pytest.Item) -> bool:
        used = booted.asker.fixture in getattr(test, "fixturenames", ())
        return used and not booted.is_over and booted.asker.place in test.listchain()

    def _is_kept(self, booted: _Booted) -> bool:
        if self._keep == "always":
            return self.tests_are_over and booted.asker.is_wide
        return self._keep == "on-failure" and booted.cluster.name in self._failed
