"""Faults of a real guest's clock, disk and processor, seen from inside it, and undone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from leftovers import leftovers
from support import vm_of

import pytest_pidoc
from pytest_pidoc import FaultError, Node, Settings, errors
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines import cgroups
from pytest_pidoc.host import documents, processes
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.values import checks, deadline

MIB = 1024**2


def ahead(node: Node) -> float:
    """Return by how many seconds the guest's clock is ahead of this machine's, about."""
    return float(node.run("date +%s.%N").stdout) - time.time()


@pytest.mark.qemu
@pytest.mark.parametrize("seconds", [3600, -86400.5])
def test_clock_jumps_and_jumps_back(node: Node, seconds: float) -> None:
    """The guest sees another time, and the right one again; the monotonic clock goes on as it did."""
    before = ahead(node)
    uptime = float(node.run("cat /proc/uptime").stdout.split()[0])
    with node.clock.jump(seconds) as fault:
        assert abs(ahead(node) - before - seconds) < 10
        assert float(node.run("cat /proc/uptime").stdout.split()[0]) < uptime + 60
    assert abs(ahead(node) - before) < 10
    assert fault.what == f"pi-1 clock jump {seconds:+g} s"


@pytest.mark.qemu
def test_clock_that_cannot_be_set(node: Node) -> None:
    """What the guest says about it is in the error."""
    with pytest.raises(FaultError, match=r"pi-1 clock jump .* failed in the guest with status 1") as caught:
        node.clock.jump(1e10)  # more than the kernel can count

    assert "date:" in caught.value.evidence
    assert not [fault for fault in node.faults.all() if fault.active]


def free(node: Node, user: str) -> int:
    """Return how many bytes that user can write to a new file, 32 MiB at most."""
    script = "head -c 32M /dev/zero >/var/tmp/probe 2>/dev/null; stat -c %s /var/tmp/probe; rm -f /var/tmp/probe"
    return int(node.run(f"sudo -u {user} sh -c {shlex.quote(script)}").stdout)


@pytest.mark.qemu
def test_disk_is_full(node: Node) -> None:
    """Nobody can write a byte, root neither; afterwards everybody can, and the host has paid nothing for it."""
    overlay = node.directory / "overlay.qcow2"
    size = overlay.stat().st_blocks * 512
    start = time.monotonic()
    with node.disk.fill():
        assert time.monotonic() - start < 30
        assert free(node, "pi") == 0
        assert free(node, "root") == 0
        assert "No space left on device" in node.run("echo x >~/file", warn=True).stderr
        assert overlay.stat().st_blocks * 512 < size + 64 * MIB
    assert free(node, "pi") == 32 * MIB
    assert node.run("ls -A / | grep pidoc-filler", warn=True).stdout == ""


@pytest.mark.qemu
def test_disk_is_almost_full(node: Node) -> None:
    """As much as was asked for is left, but for a few blocks that the file system takes for itself."""
    with node.disk.fill(leave=8 * MIB):
        assert 7 * MIB < free(node, "root") <= 8 * MIB


@pytest.mark.qemu
def test_disk_that_is_fuller_already(node: Node) -> None:
    """The error says what is free."""
    with pytest.raises(FaultError, match="failed in the guest with status") as caught:
        node.disk.fill(leave=10**15)

    assert "bytes are free" in caught.value.evidence


def used(node: Node, seconds: float = 3) -> float:
    """Return how much of the host's processors the node's QEMU has used for so long."""

    def total() -> float:
        pids = [processes.pid(identity) for identity in processes.of_cluster(node.directory.parent.name)]
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    before, start = total(), time.monotonic()
    time.sleep(seconds)
    return (total() - before) / (time.monotonic() - start)


@pytest.mark.usefixtures("limits")
def test_processor_is_slower_for_a_while(any_node: Node) -> None:
    """A guest that has work for a whole processor gets a tenth of one, and more again afterwards."""
    any_node.run("sudo systemd-run --unit=spin sh -c 'while :; do :; done'")
    with any_node.cpu.limit(0.1):
        assert 0.01 < used(any_node) < 0.15
    give_up = time.monotonic() + 60
    while used(any_node) < 0.2:  # it may have to share this machine with many
        assert time.monotonic() < give_up
    any_node.run("sudo systemctl stop spin")


@pytest.mark.usefixtures("limits")
def test_node_with_part_of_a_processor(engine: str, settings: Settings, image: Image) -> None:
    """The marker's ``cpus`` holds from the start; a fault in between gives way to it again; no group is left."""
    with Cluster.up(nodes=1, engine=engine, cpus=0.8, settings=settings) as cluster:
        limits = [cluster.engine.limit_cpus(vm_of(cluster[0]).endpoint, 0.8)]
        with cluster[0].cpu.limit(0.4):
            limits.append(cluster.engine.limit_cpus(vm_of(cluster[0]).endpoint, 0.4))
        limits.append(cluster.engine.limit_cpus(vm_of(cluster[0]).endpoint, 0.8))
        record = cluster[0].directory / cgroups.RECORD
        group = Path(record.read_text()) if engine == "local" else None

    assert limits == [0.8, 0.4, 0.8]
    assert group is None or not group.exists()


@pytest.mark.parametrize("engine", [pytest.param("local", marks=pytest.mark.qemu)])
@pytest.mark.usefixtures("limits")
def test_owner_of_a_limited_node_is_killed(settings: Settings, image: Image) -> None:
    """The reaper removes the control group, too."""
    up = (
        f"Cluster.up(nodes=1, engine='local', cpus=0.8, settings=Settings(cache_dir=Path({str(settings.cache_dir)!r})))"
    )
    code = (
        "import time; from pathlib import Path; from pytest_pidoc import Cluster, Settings\n"
        f"with {up} as cluster: print(cluster.name, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        try:
            name = owner.stdout.readline().strip()
            groups = [left for left in leftovers(name) if left.startswith("/sys/fs/cgroup/")]
        finally:
            owner.kill()
    give_up = time.monotonic() + 10
    while leftovers(name):
        assert time.monotonic() < give_up

    assert groups


@pytest.mark.parametrize("engine", [pytest.param("local", marks=pytest.mark.qemu)])
@pytest.mark.usefixtures("limits")
def test_faults_end_with_the_machine_that_had_them(settings: Settings, image: Image) -> None:
    """A node that was reset has the right time and an empty disk; undoing leaves it alone. A dead one, too."""
    with Cluster.up(nodes=1, engine="local", settings=settings) as cluster:
        node = cluster[0]
        before = ahead(node)
        node.clock.jump(7200)
        node.disk.fill()
        node.cpu.limit(0.5)
        node.reset()
        assert node.faults.undo_all() == []
        assert abs(ahead(node) - before) < 10
        assert free(node, "root") == 32 * MIB

        node.clock.jump(7200)
        node.disk.fill()
        node.cpu.limit(0.5)
        processes.kill(vm_of(node).endpoint.handle)
        processes.wait(vm_of(node).endpoint.handle, 10)
        assert node.faults.undo_all() == []
        with pytest.raises(FaultError, match=r"pi-1 has died .*, so its clock cannot jump"):
            node.clock.jump(1)


DELEGATED = """
import subprocess, sys, time
from pathlib import Path
from pytest_pidoc.engines import cgroups
node = Path(sys.argv[1]); node.mkdir()
process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
def used():
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
try:
    for share in (0.2, None, 0.1):
        cgroups.limit(node, "c-1-pi-1", process.pid, share)
        before, start = used(), time.monotonic()
        time.sleep(4)
        print(cgroups.cpus(node), (used() - before) / (time.monotonic() - start))
finally:
    process.kill(); process.wait()
group = Path((node / cgroups.RECORD).read_text())
print(group)
cgroups.remove(node)
assert not group.exists()
"""


@pytest.mark.qemu
@pytest.mark.parametrize("who", ["--uid=pi -p Delegate=yes", ""], ids=["delegated", "root"])
def test_control_groups_of_version_2(node: Node, tmp_path: Path, who: str) -> None:
    """The guest has them, whatever this machine has: to its root, and to a user to whom they were delegated."""
    package = Path(pytest_pidoc.__file__).parent
    files = [Path(module.__file__).relative_to(package) for module in (cgroups, checks, documents, errors, deadline)]
    folders = sorted({f"lib/pytest_pidoc/{file.parent}" for file in files})
    node.run(f"sudo rm -rf lib node && mkdir -p {' '.join(folders)}")
    node.run(f"touch lib/pytest_pidoc/__init__.py {' '.join(f'{folder}/__init__.py' for folder in folders)}")
    for file in files:
        node.put(package / file, f"lib/pytest_pidoc/{file}")
    (tmp_path / "script.py").write_text(DELEGATED)
    node.put(tmp_path / "script.py", "script.py")
    run = f"systemd-run -q --pipe --wait {who} -p Environment=PYTHONPATH=/home/pi/lib python3"
    result = node.run(f"sudo {run} /home/pi/script.py /home/pi/node", timeout=120)

    first, without, second, group = result.stdout.splitlines()
    assert first.split()[0] == "0.2"
    assert float(first.split()[1]) < 0.3
    assert without.split()[0] == "None"
    assert float(without.split()[1]) > 0.4
    assert second.split()[0] == "0.1"
    assert float(second.split()[1]) < 0.2
    assert group.endswith("/pidoc-c-1-pi-1")
    assert ("run-" in group) == bool(who)
