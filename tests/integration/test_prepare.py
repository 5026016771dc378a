"""Clusters that are prepared once, saved as a whole, and forked: on real nodes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PIDOC, Steps, eventually

from pytest_pidoc import PrepareError, Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.store.image import Image

ECHO = """
import socket
server = socket.create_server(("", 7000))
while True:  # whoever waits for the port connects, too
    connection, _ = server.accept()
    while data := connection.recv(1000):
        connection.sendall(data)
"""

COUNT = """
import socket, time
connection = socket.create_connection(("pi-2", 7000))
for number in range(10**9):
    connection.sendall(b"%d\\n" % number)
    open("/run/counted", "wb").write(connection.recv(1000))
    time.sleep(0.1)
"""

WHAT_LASTS = (
    "hostname; cat /etc/machine-id /sys/class/net/*/address /etc/ssh/ssh_host_ed25519_key.pub; ip -br -4 a; cat made"
)
WHAT_IS_NEW = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1"


def connected(cluster: Cluster) -> None:
    """Let a program of the first node talk to one of the second, by one connection."""
    cluster.run("date +%s > made; hostname >> made")
    for pi, name, program in ((cluster[1], "echo", ECHO), (cluster[0], "count", COUNT)):
        pi.write(f"/opt/{name}.py", program, sudo=True)
        pi.sudo(f"systemd-run --quiet --unit={name} python3 /opt/{name}.py")
        if name == "echo":
            pi.wait_for_port(7000)
    cluster[0].wait_until_succeeds("test -s /run/counted")


def marked(cluster: Cluster) -> None:
    """Do a second thing."""
    cluster.run("echo marked >> made")


def leaves_a_node_off(cluster: Cluster) -> None:
    """Let a guest switch itself off."""
    cluster[1].run("sudo systemctl poweroff", warn=True)
    eventually(lambda: cluster[1].state != "up", timeout=60)


def reboots(cluster: Cluster) -> None:
    """Leave a node that restarts."""
    cluster[0].run("echo before > made; sync; sudo systemctl reboot", warn=True)


def fills_the_disk(cluster: Cluster) -> None:
    """Leave no space."""
    cluster[0].sudo("fallocate -l 100G /full || dd if=/dev/zero of=/full bs=1M || true", hide=True, warn=True)


def damage(path: Path) -> None:
    """Change one bit of a file that nobody may write."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def prepared(engine: str, settings: Settings, image: Image) -> Iterator[Cluster]:
    """Two nodes that were saved while a program of one talked to a program of the other."""
    with Cluster.up(2, engine=engine, settings=settings, prepare=connected) as cluster:
        yield cluster


def counted(cluster: Cluster) -> int:
    """Return how often the program has got an answer."""
    return int(cluster[0].run("cat /run/counted").stdout or 0)


def each(cluster: Cluster, command: str) -> list[str]:
    """Return what a command prints on each node."""
    return [pi.run(command).stdout for pi in cluster]


def test_fork_is_the_same_cluster_again(prepared: Cluster, engine: str, settings: Settings) -> None:
    """Names, addresses, ids and keys stay, and the connection between nodes goes on; what must be new is new."""
    steps = Steps()
    with Cluster.up(2, engine=engine, settings=settings, prepare=connected, progress=steps) as other:
        assert not [step for step in steps.texts if "preparing" in step]
        assert each(other, WHAT_LASTS) == each(prepared, WHAT_LASTS)
        new = [*each(other, WHAT_IS_NEW), *each(prepared, WHAT_IS_NEW)]
        assert len(set(new)) == len(new)
        for pi in other:
            assert abs(float(pi.run("date +%s.%N").stdout) - time.time()) < 2
        for cluster in (prepared, other):
            before = counted(cluster)
            assert eventually(lambda before=before, cluster=cluster: counted(cluster) > before + 3)  # type: ignore[misc]
        assert {pi.port for pi in other}.isdisjoint(pi.port for pi in prepared)


def test_two_forks_do_not_see_each_other(prepared: Cluster, engine: str, settings: Settings) -> None:
    """They have the same addresses, in a LAN each."""
    with Cluster.up(2, engine=engine, settings=settings, prepare=connected) as other:
        other[1].power_cut()

        assert other[0].run("ping -c 1 -W 2 pi-2", warn=True).failed
        assert prepared[0].run("ping -c 1 -W 2 pi-2").ok
        before = counted(prepared)
        assert eventually(lambda: counted(prepared) > before)


def test_reset_and_power_cut_of_a_fork(prepared: Cluster) -> None:
    """A reset puts a node back into the prepared state; a power cut leaves what is on the disk."""
    made = prepared[1].run("cat made").stdout
    prepared[1].run("echo changed >> made; sync")
    prepared[1].power_cut().undo()
    assert prepared[1].run("cat made").stdout == made + "changed\n"
    assert prepared[0].run("ping -c 1 -W 2 pi-2").ok

    prepared[1].reset()

    assert prepared[1].run("cat made").stdout == made
    assert prepared[1].run("systemctl is-active echo").stdout == "active\n"
    assert prepared[0].run("ping -c 1 -W 2 pi-2").ok


def test_reset_of_the_cluster(prepared: Cluster) -> None:
    """All nodes go on together, and with them the connection between them."""
    made = each(prepared, "cat made")
    prepared.run("rm made")

    prepared.reset()

    assert each(prepared, "cat made") == made
    before = counted(prepared)
    assert eventually(lambda: counted(prepared) > before)


def test_each_test_has_a_fork_of_its_own(pytester: pytest.Pytester, inner_clusters: Path) -> None:
    """Two workers prepare the nodes once; what a test does to them, no other sees."""
    pytester.makefile(".sh", setup="date +%s%N > /home/pi/made\n")
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.pidoc(prepare="setup.sh", internet=False)

        @pytest.mark.parametrize("number", range(4))
        def test_made(pi, number):
            made = pi.run("cat made").stdout
            assert made.strip().isdigit()
            with open("made.txt", "a") as file:
                file.write(made)
            pi.sudo("rm made")
    """)

    result = pytester.runpytest_subprocess("-n2", "--dist=load", timeout=600)

    result.assert_outcomes(passed=4)
    made = (pytester.path / "made.txt").read_text().split()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert not list(inner_clusters.glob("pidoc-*/c-*"))


def test_each_step_is_saved(settings: Settings, image: Image, tmp_path: Path) -> None:
    """Another last step does not repeat the first; a script gets the names, and is known by its text."""
    script = tmp_path / "setup.sh"
    script.write_text('echo "$PIDOC_NODE of $PIDOC_NODES as $(id -un)" >> /home/pi/made\n')

    def up(steps: list[object]) -> tuple[str, list[str]]:
        heard = Steps()
        with Cluster.up(1, engine="local", settings=settings, prepare=steps, progress=heard) as cluster:  # type: ignore[arg-type]
            return cluster[0].run("cat made").stdout, [step for step in heard.texts if step.startswith("preparing")]

    made, done = up([marked, str(script)])
    assert made == "marked\npi-1 of pi-1 as root\n"
    assert [re.sub(r", for .*", "", each) for each in done] == [
        "preparing 1 x pi3-virt: marked(), step 1 of 2",
        "preparing 1 x pi3-virt: setup.sh, step 2 of 2",
    ]
    assert up([marked, str(script)]) == (made, [])

    script.write_text("echo other >> /home/pi/made\n")

    made, done = up([marked, str(script)])
    assert made == "marked\nother\n"
    assert {step.partition(",")[0] for step in done} == {"preparing 1 x pi3-virt: setup.sh"}


def test_build_prepares_beforehand(settings: Settings, image: Image, inner_clusters: Path, tmp_path: Path) -> None:
    """No node runs afterwards; the next start, and another build, have nothing to prepare."""
    script = tmp_path / "setup.sh"
    script.write_text("echo built >> /home/pi/made\n")
    command = [*PIDOC, "build", "--prepare", str(script)]

    first, second = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(2))

    assert "preparing 1 x pi3-virt: setup.sh" in first.stderr
    assert "preparing" not in second.stderr
    assert first.stdout == second.stdout
    assert (Path(first.stdout.strip()) / "pi-1" / "ram").exists()
    assert not list(inner_clusters.glob("pidoc-*/c-*"))
    heard = Steps()
    with Cluster.up(1, engine="local", settings=settings, prepare=str(script), progress=heard) as cluster:
        assert cluster[0].run("cat made").stdout == "built\n"
    assert not [step for step in heard.texts if "preparing" in step]


@pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="ansible-playbook is not installed")
def test_playbook_prepares_all_nodes(settings: Settings, image: Image, tmp_path: Path) -> None:
    """By Ansible itself, with the cluster's inventory and what lies beside the playbook."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "greeting").write_text("hello\n")
    playbook = tmp_path / "site.yml"
    playbook.write_text("""
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {src: greeting, dest: /home/pi/made}
    - ansible.builtin.lineinfile: {path: /home/pi/made, line: "{{ lan_address }}"}
""")
    with Cluster.up(2, engine="local", settings=settings, prepare=playbook) as cluster:
        assert each(cluster, "cat made") == [f"hello\n{pi.lan_address}\n" for pi in cluster]


def test_script_that_fails_is_named_with_its_node(settings: Settings, image: Image, tmp_path: Path) -> None:
    """With the end of its output; nothing is saved, and its logs are kept."""
    script = tmp_path / "setup.sh"
    script.write_text("echo installing; test $PIDOC_NODE = pi-1 || { echo no space; exit 3; }\n")
    saved = sorted((settings.cache_dir / "images").iterdir())

    with pytest.raises(PrepareError) as caught, Cluster.up(2, engine="local", settings=settings, prepare=str(script)):
        pass

    assert "setup.sh failed on 1 of 2 nodes: pi-2." in str(caught.value)
    assert "exit status 3\ninstalling\nno space" in str(caught.value).replace("  ", "")
    assert sorted((settings.cache_dir / "images").iterdir()) == saved


def test_nothing_is_left_of_a_preparation_that_is_killed(
    settings: Settings, image: Image, inner_clusters: Path, tmp_path: Path
) -> None:
    """Its nodes end with it, and the next start prepares others."""
    script = tmp_path / "setup.sh"
    script.write_text("touch /home/pi/begun; sleep 600\n")
    command = [*PIDOC, "up", "--prepare", str(script)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as up:
        for line in up.stderr or ():
            if "preparing 1 x pi3-virt" in line:
                break
        (directory,) = inner_clusters.glob("pidoc-*/c-*")
        up.kill()

    assert eventually(lambda: not directory.exists(), timeout=30)
    script.write_text("touch /home/pi/begun\n")
    with Cluster.up(1, engine="local", settings=settings, prepare=str(script)) as cluster:
        assert cluster[0].run("ls begun").ok


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (leaves_a_node_off, r"pi-2 is off \(.*\), so it cannot be saved after leaves_a_node_off\(\)"),
        (fills_the_disk, r"The disk of pi-1 is full after fills_the_disk\(\)"),
    ],
)
def test_nodes_that_cannot_be_saved_are_named(step: object, message: str, settings: Settings, image: Image) -> None:
    """A step must leave all nodes as a test can use them."""
    with (
        pytest.raises(PrepareError, match=message),
        Cluster.up(2, engine="local", settings=settings, prepare=step),  # type: ignore[arg-type]
    ):
        pass


def test_node_that_restarts_is_waited_for(settings: Settings, image: Image) -> None:
    """What is saved is the node after its restart."""
    with Cluster.up(1, engine="local", settings=settings, prepare=reboots) as cluster:
        assert cluster[0].run("cat made").stdout == "before\n"
        assert float(cluster[0].run("cut -d ' ' -f 1 /proc/uptime").stdout) < 3600


def test_saved_cluster_that_is_damaged_is_prepared_again(settings: Settings, image: Image) -> None:
    """One flipped byte in any of its files is found before a node runs from it."""
    heard = Steps()
    with Cluster.up(1, engine="local", settings=settings, prepare=marked):
        pass
    manifests = (settings.cache_dir / "images").glob("*/manifest.json")
    (saved,) = [path.parent for path in manifests if json.loads(path.read_text())["recipe"].endswith(" after marked()")]
    damage(saved / "pi-1" / "ram")
    (settings.cache_dir / "stamps" / f"{saved.name}.json").unlink()

    with Cluster.up(1, engine="local", settings=settings, prepare=marked, progress=heard) as cluster:
        assert cluster[0].run("cat made").stdout == "marked\n"

    assert [step for step in heard.texts if step.startswith("preparing")]
