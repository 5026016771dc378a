"""The reaper: who loses its owner is ended, and nobody else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support import child, eventually

from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import reaper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("clusters", "no_docker")


def make_cluster(owner: str | None, *, engine: str = "local") -> Path:
    directory = records.new_directory()
    records.write(directory, {"name": directory.name, "owner": owner, "engine": engine})
    (directory / "pi-1").mkdir()
    return directory


def node_of(directory: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Run a process that stands for a node's QEMU: what it is does not matter, its environment does."""
    return child(**{processes.CLUSTER_VARIABLE: directory.name})


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    with child() as process:
        yield process


@pytest.fixture
def gone() -> str:
    """Return the identity of a process that has ended."""
    with child() as process:
        return str(processes.identify(process.pid))


@contextlib.contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = reaper.start(directory)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_nodes_end_with_their_owner(owner: subprocess.Popen[bytes]) -> None:
    """After a SIGKILL of the owner, nothing of the cluster lives longer than 10 s."""
    directory = make_cluster(processes.identify(owner.pid))
    with node_of(directory) as node, running(directory) as process:
        owner.kill()
        owner.wait()

        assert node.wait(10) == -9
        assert process.wait(10) == 0
        assert not directory.exists()


def test_nodes_end_with_an_owner_that_was_gone_first(gone: str) -> None:
    """An owner that is killed before the reaper looks for the first time is noticed as well."""
    directory = make_cluster(gone)
    with node_of(directory) as node, running(directory):
        assert node.wait(10) == -9


def test_nodes_live_while_their_owner_does(owner: subprocess.Popen[bytes]) -> None:
    """The reaper ends by itself when the cluster was taken down in order, and touches nobody."""
    directory = make_cluster(processes.identify(owner.pid))
    with node_of(directory) as node, running(directory) as process:
        records.remove(directory)

        assert process.wait(10) == 0
        assert node.poll() is None


def test_reaper_survives_the_death_of_its_starters_group(owner: subprocess.Popen[bytes]) -> None:
    """A Ctrl-C in the terminal does not reach it: it has a session of its own."""
    directory = make_cluster(processes.identify(owner.pid))
    with running(directory) as process:
        assert eventually(lambda: os.getsid(process.pid) == process.pid)


def test_reaper_is_not_of_the_cluster(owner: subprocess.Popen[bytes]) -> None:
    """It does not end itself before it has removed the directory."""
    directory = make_cluster(processes.identify(owner.pid))
    with running(directory) as process:
        assert eventually(lambda: processes.is_alive(str(processes.identify(process.pid))))
        assert list(processes.of_cluster(directory.name)) == []


def test_reap_ends_every_process_of_the_cluster() -> None:
    """All nodes end, and the directory goes."""
    directory = make_cluster(None)
    with node_of(directory) as first, node_of(directory) as second:
        assert eventually(lambda: len(list(processes.of_cluster(directory.name))) == 2)
        reaper.reap(directory)

        assert (first.wait(10), second.wait(10)) == (-9, -9)
        assert not directory.exists()


def test_reap_spares_other_clusters() -> None:
    """Who carries another name goes on running."""
    directory, other = make_cluster(None), make_cluster(None)
    with node_of(other) as node:
        reaper.reap(directory)

        assert node.poll() is None
        assert other.exists()


def test_end_nodes_keeps_the_directory() -> None:
    """Logs can be saved after the nodes have ended and before they are removed."""
    directory = make_cluster(None)
    reaper.end_nodes(directory)

    assert (directory / "pi-1").is_dir()


def test_reaping_twice_is_no_error() -> None:
    """A cluster that is gone can be ended again, also where there is no Docker."""
    directory = make_cluster(None)
    reaper.reap(directory)
    reaper.reap(directory)

    assert not directory.exists()


def test_sweep_reaps_orphans(gone: str) -> None:
    """A cluster whose owner is gone is ended, and named."""
    directory = make_cluster(gone)
    with node_of(directory) as node:
        assert eventually(lambda: list(processes.of_cluster(directory.name)))
        assert reaper.sweep() == [directory.name]
        assert node.wait(10) == -9


def test_sweep_spares_clusters_with_an_owner(owner: subprocess.Popen[bytes]) -> None:
    """A cluster that somebody uses stays."""
    directory = make_cluster(processes.identify(owner.pid))

    assert reaper.sweep() == []
    assert directory.exists()


def test_sweep_spares_clusters_that_outlive_their_starter() -> None:
    """What ``pidoc up`` started has no owner, and lives until ``pidoc down``."""
    directory = make_cluster(None)

    assert reaper.sweep() == []
    assert directory.exists()


def test_sweep_spares_a_cluster_that_is_being_made() -> None:
    """A directory without a record may get one in the next moment."""
    directory = records.new_directory()

    assert reaper.sweep() == []
    assert directory.exists()


def age(directory: Path) -> None:
    old = time.time() - 2 * reaper.YOUNG
    os.utime(directory, (old, old))


def test_sweep_removes_what_was_never_finished() -> None:
    """An old directory without a record is of a starter that was killed; nothing was started in it."""
    directory = records.new_directory()
    age(directory)

    assert reaper.sweep() == [directory.name]
    assert not directory.exists()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"owner": 7}', '{"owner": "nonsense", "engine": "local"}'])
def test_sweep_survives_a_damaged_record(text: str) -> None:
    """A record that says nothing does not keep new clusters from being started."""
    directory = records.new_directory()
    (directory / records.RECORD).write_text(text)

    reaper.sweep()


def test_cluster_on_docker_waits_for_a_daemon(gone: str) -> None:
    """Without a daemon, containers cannot be removed: the cluster stays for a later sweep."""
    directory = make_cluster(gone, engine="docker")

    assert reaper.sweep() == []
    assert directory.exists()


def test_reap_says_that_the_daemon_is_missing() -> None:
    """Who asks for one cluster to be ended hears why it was not."""
    directory = make_cluster(None, engine="docker")
    with pytest.raises(EngineUnavailable, match="No Docker daemon listens"):
        reaper.reap(directory)

    assert directory.exists()
