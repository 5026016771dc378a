"""Processes: who is meant by an identity, and what happens to nobody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from support import child, eventually

from pytest_pidoc.host import processes

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

CLUSTER = f"c-test-{os.getpid()}"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with child() as running:
        yield running


def recycled(pid: int) -> str:
    """Return the identity of an earlier process that had the same id."""
    _, start, boot = str(processes.identify(pid)).split(":")
    return f"{pid}:{int(start) - 1}:{boot}"


def another_boot(pid: int) -> str:
    """Return the identity of a process before this machine was started again."""
    number, start, _ = str(processes.identify(pid)).split(":")
    return f"{number}:{start}:00000000-0000-0000-0000-000000000000"


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """Give the identity of a process that has ended and was waited for."""
    with child() as running:
        identity = processes.identify(running.pid)
        running.kill()
        running.wait()
        assert identity is not None
        yield identity


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_identity_of_a_process_stays_the_same(process: subprocess.Popen[bytes]) -> None:
    """A process has one name all its life."""
    assert processes.identify(process.pid) == processes.identify(process.pid) is not None


def test_identity_begins_with_the_process_id(process: subprocess.Popen[bytes]) -> None:
    """The name says where to look."""
    assert str(processes.identify(process.pid)).startswith(f"{process.pid}:")


def test_live_process_is_alive(process: subprocess.Popen[bytes]) -> None:
    """A process that runs is alive."""
    assert processes.is_alive(str(processes.identify(process.pid)))


def test_own_process_is_alive() -> None:
    """A process can name itself."""
    assert processes.is_alive(str(processes.identify(os.getpid())))


def test_ended_process_has_no_identity() -> None:
    """There is no name for nobody."""
    with nobody() as identity:
        assert processes.identify(int(identity.partition(":")[0])) is None
        assert not processes.is_alive(identity)


def test_zombie_counts_as_gone(process: subprocess.Popen[bytes]) -> None:
    """A process that has ended but was not waited for does nothing any more."""
    identity = str(processes.identify(process.pid))
    os.kill(process.pid, signal.SIGKILL)

    assert eventually(lambda: not processes.is_alive(identity))
    assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) is not None  # so it is a zombie still


@pytest.mark.parametrize("other", [recycled, another_boot])
def test_recycled_id_is_somebody_else(process: subprocess.Popen[bytes], other: Callable[[int], str]) -> None:
    """An id alone is no name: the start time and the boot have to fit."""
    assert not processes.is_alive(other(process.pid))


@pytest.mark.parametrize("other", [recycled, another_boot])
def test_kill_spares_who_has_a_recycled_id(process: subprocess.Popen[bytes], other: Callable[[int], str]) -> None:
    """Whoever has the id now is not killed in place of who had it."""
    identity = str(processes.identify(process.pid))
    processes.kill(other(process.pid))

    assert processes.is_alive(identity)
    process.stdin.close()
    assert process.wait(10) == 1  # it ended by itself: its input did


def test_name_with_brackets_and_spaces(tmp_path: Path) -> None:
    """A program's name may hold what separates the fields of /proc/PID/stat."""
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(shutil.which("cat"))
    with child(str(program)) as running:
        stat = Path(f"/proc/{running.pid}/stat")
        assert eventually(lambda: "(a) R 1 (b)" in stat.read_text())

        assert str(processes.identify(running.pid)).split(":")[1] == stat.read_text().split()[-31]  # field 22 of 52


def test_kill_ends_the_process(process: subprocess.Popen[bytes]) -> None:
    """Kill sends SIGKILL."""
    processes.kill(str(processes.identify(process.pid)))

    assert process.wait(10) == -signal.SIGKILL


def test_kill_of_nobody_is_no_error() -> None:
    """It is fine if somebody else was faster."""
    with nobody() as identity:
        processes.kill(identity)


def test_kill_of_a_zombie_is_no_error(process: subprocess.Popen[bytes]) -> None:
    """A process that has ended, but was not waited for, can be killed again."""
    identity = str(processes.identify(process.pid))
    processes.kill(identity)
    processes.kill(identity)

    assert process.wait(10) == -signal.SIGKILL


def test_wait_returns_when_the_process_ends(process: subprocess.Popen[bytes]) -> None:
    """The wait ends with the process, not with the timeout."""
    identity = str(processes.identify(process.pid))
    process.kill()

    assert processes.wait(identity, timeout=3600)


def test_wait_needs_no_child() -> None:
    """A grandchild can be waited for, too."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with child(sys.executable, "-c", code) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        assert eventually(children.read_text)
        identity = str(processes.identify(int(children.read_text())))
        assert not processes.wait(identity, timeout=0)
        processes.kill(identity)
        assert processes.wait(identity, timeout=10)


def test_wait_ends_with_its_timeout(process: subprocess.Popen[bytes]) -> None:
    """A process that goes on running is told from one that has ended."""
    assert not processes.wait(str(processes.identify(process.pid)), timeout=0.01)


def test_wait_for_nobody_returns_at_once() -> None:
    """Who has ended need not be waited for, however long the timeout."""
    with nobody() as identity:
        assert processes.wait(identity, timeout=None)


def test_wait_for_who_had_a_recycled_id_returns_at_once(process: subprocess.Popen[bytes]) -> None:
    """Whoever has the id now is not waited for."""
    assert processes.wait(recycled(process.pid), timeout=None)


def test_leaves_no_descriptor_open(process: subprocess.Popen[bytes]) -> None:
    """Naming, waiting and killing close what they open."""
    before = descriptors()
    identity = str(processes.identify(process.pid))
    processes.wait(identity, timeout=0)
    processes.wait(recycled(process.pid), timeout=0)
    processes.kill(identity)

    assert descriptors() == before


def test_processes_of_a_cluster_are_found_by_their_environment() -> None:
    """Who carries the cluster's name belongs to it, and nobody else does."""
    with child(**{processes.CLUSTER_VARIABLE: CLUSTER}) as ours, child(**{processes.CLUSTER_VARIABLE: CLUSTER + "0"}):
        identity = processes.identify(ours.pid)

        assert eventually(lambda: list(processes.of_cluster(CLUSTER)) == [identity])


def test_children_of_a_clusters_process_belong_to_it() -> None:
    """The environment is inherited, so what a node's process starts is found as well."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with child(sys.executable, "-c", code, **{processes.CLUSTER_VARIABLE: CLUSTER}) as parent:
        assert eventually(lambda: len(list(processes.of_cluster(CLUSTER))) == 2)
        for identity in list(processes.of_cluster(CLUSTER)):
            processes.kill(identity)
        parent.wait(10)

    assert eventually(lambda: not list(processes.of_cluster(CLUSTER)))


def test_own_process_is_never_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends a cluster from inside of it does not end itself."""
    monkeypatch.setenv(processes.CLUSTER_VARIABLE, CLUSTER)

    assert processes.identify(os.getpid()) not in list(processes.of_cluster(CLUSTER))


def test_zombie_is_not_of_a_cluster() -> None:
    """Who has ended is not found again, so that killing until nobody is found comes to an end."""
    with child(**{processes.CLUSTER_VARIABLE: CLUSTER}) as ours:
        assert eventually(lambda: list(processes.of_cluster(CLUSTER)))
        os.kill(ours.pid, signal.SIGKILL)
        assert eventually(lambda: not list(processes.of_cluster(CLUSTER)))


def test_children_are_found_until_somebody_waits_for_them() -> None:
    """A child that has ended is one still, and is gone when it was waited for."""
    with child("sleep", "600") as sleeper:
        assert eventually(lambda: f"{sleeper.pid} sleep" in list(processes.children()))
        os.kill(sleeper.pid, signal.SIGKILL)
        assert eventually(lambda: processes.identify(sleeper.pid) is None)

        assert f"{sleeper.pid} sleep" in list(processes.children())

    assert f"{sleeper.pid} sleep" not in list(processes.children())


def test_a_grandchild_is_no_child() -> None:
    """What a child starts is that child's."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with child(sys.executable, "-c", code) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        assert eventually(children.read_text)
        grandchild = children.read_text().strip()

        found = [each.partition(" ")[0] for each in processes.children()]

        assert str(parent.pid) in found
        assert grandchild not in found
        os.kill(int(grandchild), signal.SIGKILL)
        parent.wait(10)


def test_a_process_is_found_from_its_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its starter can go on before the kernel has given it its environment, and may be killed then."""
    for _ in range(100):
        with child(**{processes.CLUSTER_VARIABLE: CLUSTER}) as process, monkeypatch.context() as patch:
            first = SimpleNamespace(name=str(process.pid), path=f"/proc/{process.pid}")
            patch.setattr(os, "scandir", lambda _, first=first: [first])  # no time goes by with other processes
            assert list(processes.of_cluster(CLUSTER)) == [processes.identify(process.pid)]


def test_a_process_without_an_environment_is_waited_for_no_longer_than_others() -> None:
    """There are such, and each look at all processes meets them."""
    with child("env", "-i", "sleep", "600") as process:
        here = Path("/proc", str(process.pid), "cmdline")
        assert eventually(lambda: here.read_bytes().startswith(b"sleep"))
        began = time.monotonic()
        assert list(processes.of_cluster(CLUSTER)) == []
        assert time.monotonic() - began < processes.EXECUTING
