"""Control groups: where they are made, in trees of plain files and, where this user may, in the kernel's own."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
from support import child, make_image, make_launch

from pytest_pidoc.engines import cgroups
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import reaper

MOUNTS = """\
31 23 0:28 / {root} rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / {root}/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
"""
V1 = (
    MOUNTS + "32 31 0:29 / {root}/cpu rw,relatime - cgroup cgroup rw,cpu\n41 31 0:38 / {root}/v2 rw - cgroup2 none rw\n"
)
V2 = "31 23 0:28 / {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return the directory of a node."""
    (tmp_path / "pi-1").mkdir()
    return tmp_path / "pi-1"


def make_proc(tmp_path: Path, mounts: str, own: str) -> Path:
    """Make what the kernel tells a process, with groups below tmp_path/groups."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "mountinfo").write_text(mounts.format(root=tmp_path / "groups"))
    (proc / "self" / "cgroup").write_text(own)
    return proc


def make_v2(group: Path, *, enabled: str, available: str = "cpu memory") -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.subtree_control").write_text(enabled)
    (group / "cgroup.controllers").write_text(available)


def test_version_1(tmp_path: Path, node: Path) -> None:
    """The group is made below the process's own one of the controller cpu."""
    own = tmp_path / "groups" / "cpu" / "session"
    own.mkdir(parents=True)
    proc = make_proc(tmp_path, V1, "5:cpuacct:/\n1:cpu:/session\n0::/elsewhere\n")

    cgroups.limit(node, "c-1-pi-1", 1234, 0.25, proc=proc)

    group = own / "pidoc-c-1-pi-1"
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "25000",
        "cgroup.procs": "1234",
    }
    assert cgroups.cpus(node) == 0.25


def test_version_2(tmp_path: Path, node: Path) -> None:
    """The root of the hierarchy has the controller on for others already."""
    make_v2(tmp_path / "groups", enabled="cpu io")
    proc = make_proc(tmp_path, V2, "0::/user.slice/session-1.scope\n")

    cgroups.limit(node, "c-1-pi-1", 1234, 1.5, proc=proc)

    group = tmp_path / "groups" / "pidoc-c-1-pi-1"
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "cpu.max": "150000 100000",
        "cgroup.procs": "1234",
    }
    assert cgroups.cpus(node) == 1.5


def test_version_2_in_a_delegated_group(tmp_path: Path, node: Path) -> None:
    """Where the root offers nothing, the own group does; who is there has moved to a group below it."""
    make_v2(tmp_path / "groups", enabled="", available="memory")
    make_v2(tmp_path / "groups" / "run.scope", enabled="cpu")
    proc = make_proc(tmp_path, V2, f"0::/run.scope/{cgroups.OWNERS}\n")

    cgroups.limit(node, "c-1-pi-1", 1234, 0.5, proc=proc)

    assert (tmp_path / "groups" / "run.scope" / "pidoc-c-1-pi-1" / "cpu.max").read_text() == "50000 100000"


def test_controller_is_turned_on(tmp_path: Path, node: Path) -> None:
    """A group without processes needs no more than that."""
    make_v2(tmp_path / "groups", enabled="memory")
    proc = make_proc(tmp_path, V2, "0::/\n")

    cgroups.limit(node, "c-1-pi-1", 1234, 0.5, proc=proc)

    assert (tmp_path / "groups" / "cgroup.subtree_control").read_text() == "+cpu"


def test_second_limit_keeps_the_group(tmp_path: Path, node: Path) -> None:
    """It is another share of the same group, and no limit is one, too."""
    make_v2(tmp_path / "groups", enabled="cpu")
    proc = make_proc(tmp_path, V2, "0::/\n")

    cgroups.limit(node, "c-1-pi-1", 1234, 0.5, proc=proc)
    cgroups.limit(node, "c-1-pi-1", 1234, None, proc=Path("/nowhere"))

    assert (tmp_path / "groups" / "pidoc-c-1-pi-1" / "cpu.max").read_text() == "max 100000"
    assert cgroups.cpus(node) is None


def test_lifting_what_is_not_there(tmp_path: Path, node: Path) -> None:
    """No group is made in order to have no limit."""
    cgroups.limit(node, "c-1-pi-1", 1234, None, proc=Path("/nowhere"))

    assert list(node.iterdir()) == []


@pytest.mark.parametrize(
    ("mounts", "reason"),
    [
        ("", "the kernel has no cpu controller"),
        (V2, "the controller cpu is not delegated to it"),
        (V1, "No such file or directory"),
    ],
)
def test_nowhere_to_make_a_group(tmp_path: Path, node: Path, mounts: str, reason: str) -> None:
    """The error says what is in the way, and nothing is left."""
    make_v2(tmp_path / "groups", enabled="", available="memory")
    proc = make_proc(tmp_path, mounts, "0::/\n")
    with pytest.raises(cgroups.CgroupError, match=reason):
        cgroups.limit(node, "c-1-pi-1", 1234, 0.5, proc=proc)

    assert list(node.iterdir()) == []
    assert cgroups.cpus(node) is None


def test_removing_twice_is_no_error(tmp_path: Path, node: Path) -> None:
    """Also when somebody else has removed the group."""
    (node / cgroups.RECORD).write_text(str(tmp_path / "pidoc-gone"))

    cgroups.remove(node)
    cgroups.remove(node)

    assert list(node.iterdir()) == []


SPIN = "import time\nwhile True: pass"


@pytest.fixture
def real(node: Path) -> Path:
    """Return the directory of a node whose processes this user can limit, or skip."""
    with child() as process:
        try:
            cgroups.limit(node, f"try-{os.getpid()}", process.pid, 1)
        except cgroups.CgroupError as error:
            pytest.skip(f"no control group can be made here: {error}")
    cgroups.remove(node)
    return node


def test_process_gets_no_more_than_its_share(real: Path) -> None:
    """A process that could use a whole processor uses a fifth."""
    with child("python3", "-c", SPIN) as process:
        cgroups.limit(real, f"test-{os.getpid()}", process.pid, 0.2)
        before, start = _cpu_seconds(process.pid), time.monotonic()
        time.sleep(2)
        used = (_cpu_seconds(process.pid) - before) / (time.monotonic() - start)
    group = Path((real / cgroups.RECORD).read_text())
    cgroups.remove(real)

    assert 0.02 < used < 0.3
    assert not group.exists()


def test_reaper_removes_the_group_of_a_killed_node(real: Path, clusters: Path) -> None:
    """Whoever ends a cluster leaves no group of it behind."""
    directory = records.new_directory()
    records.write(directory, {"name": directory.name, "owner": None, "engine": "local"})
    (directory / "pi-1").mkdir()
    with child("sleep", "600", **{processes.CLUSTER_VARIABLE: directory.name}) as process:
        cgroups.limit(directory / "pi-1", f"{directory.name}-pi-1", process.pid, 0.5)
        group = Path((directory / "pi-1" / cgroups.RECORD).read_text())
        assert group.name == f"pidoc-{directory.name}-pi-1"
        reaper.reap(directory)

    assert not group.exists()


@pytest.mark.qemu
def test_qemu_with_a_limit(real: Path, tmp_path: Path) -> None:
    """The engine local puts QEMU into its group at the start, changes it later, and removes it at the end."""
    launch = make_launch(tmp_path / f"c-{os.getpid()}" / "pi-1", make_image(tmp_path / "image", disk=True))
    engine = LocalEngine()
    endpoint = engine.start(dataclasses.replace(launch, cpus=0.5, memory=64 * 1024**2))
    group = Path((launch.directory / cgroups.RECORD).read_text())
    try:
        assert endpoint.handle.partition(":")[0] in (group / "cgroup.procs").read_text().split()
        assert engine.limit_cpus(endpoint, 0.25) == 0.5
        assert cgroups.cpus(launch.directory) == 0.25
        assert engine.limit_cpus(endpoint, None) == 0.25
        assert engine.limit_cpus(endpoint, 0.5) is None
    finally:
        engine.stop(endpoint)

    assert not group.exists()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
