"""Three real nodes on each engine: what a test does with them."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fabric.exceptions import GroupException
from invoke.exceptions import UnexpectedExit
from leftovers import leftovers
from support import vm_of

from pytest_pidoc import NodeDied, Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.store.image import Image


def test_every_node_is_a_64_bit_pi(cluster: Cluster) -> None:
    """A command runs on each node, and says ARM."""
    assert [pi.run("uname -m").stdout.strip() for pi in cluster] == ["aarch64"] * 3


def test_a_command_runs_on_all_nodes_at_once(cluster: Cluster) -> None:
    """``Cluster.run`` returns a result per node; each has its own host name."""
    results = cluster.run("hostname")

    assert [results[pi].stdout.strip() for pi in cluster] == ["pi-1", "pi-2", "pi-3"]
    assert results["pi-2"] is results[cluster["pi-2"].connection]
    assert {result.stdout for result in cluster.sudo("id -u").values()} == {"0\n"}


def test_a_command_that_fails_on_some_nodes_names_them(cluster: Cluster) -> None:
    """Fabric's error for groups, with what each of them said."""
    with pytest.raises(GroupException) as caught:
        cluster.run("test $(hostname) = pi-2 || systemctl start no-such.service")

    assert "failed on 2 of 3 nodes: pi-1, pi-3." in str(caught.value)
    assert "exit status 5\n" in str(caught.value) or "exit status 4\n" in str(caught.value)
    assert "no-such.service" in str(caught.value).splitlines()[-1]
    assert caught.value.result["pi-2"].ok


def test_files_travel_to_and_from_all_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """One file to all, and one of each back to a path of its own."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 400)

    cluster.put(tmp_path / "file", "for-all")
    cluster.run("hostname >> for-all")
    cluster.get("for-all", tmp_path / "{name}.bin")

    for pi in cluster:
        assert (tmp_path / f"{pi.name}.bin").read_bytes() == bytes(range(256)) * 400 + f"{pi.name}\n".encode()


def test_a_failed_command_is_fabrics_own_error(cluster: Cluster) -> None:
    """What a user runs and fails stays ``UnexpectedExit``, with its status and output."""
    with pytest.raises(UnexpectedExit) as caught:
        cluster[0].run("echo reason >&2; exit 3")

    assert caught.value.result.exited == 3
    assert "reason" in str(caught.value)


def test_sudo_needs_no_password(cluster: Cluster) -> None:
    """The user may do everything."""
    assert cluster[0].sudo("id -u").stdout.strip() == "0"


def test_files_travel_both_ways(cluster: Cluster, tmp_path: Path) -> None:
    """What is put on a node and fetched again is the same, byte for byte."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(bytes(range(256)) * 40)

    cluster[1].put(there, "bytes")
    cluster[1].get("bytes", back)

    assert back.read_bytes() == there.read_bytes()


def test_nodes_do_not_share_a_disk(cluster: Cluster) -> None:
    """What one node writes, another does not see: each has its own overlay."""
    cluster[0].run("echo mine > private")

    assert cluster[1].run("test -e private", warn=True).exited == 1


def test_the_guest_has_what_ansible_and_benchmarks_need(cluster: Cluster) -> None:
    """Python 3 and sysbench are there, and no unit has failed."""
    pi = cluster[0]

    assert pi.run("python3 -c 'import json, ssl, sys; print(sys.version_info[0])'").stdout.strip() == "3"
    assert "total time" in pi.run("sysbench cpu --cpu-max-prime=100 --events=10 run").stdout
    assert pi.run("systemctl is-system-running --wait", warn=True).stdout.strip() == "running"


def test_the_guest_reaches_names_and_itself(cluster: Cluster) -> None:
    """A node resolves its own name, and has the static address of QEMU's user network."""
    assert "pi-1" in cluster[0].run("getent hosts pi-1").stdout
    assert "10.0.2.15/24" in cluster[0].run("ip -4 address show eth0").stdout


def test_the_serial_log_starts_with_the_first_byte(cluster: Cluster) -> None:
    """The kernel's console is quiet, so the log begins with the first words of systemd: seconds before SSH answers."""
    for pi in cluster:
        assert pi.serial_log.read().lstrip().startswith(b"Welcome to Debian GNU/Linux")


def test_the_console_gives_a_shell(cluster: Cluster) -> None:
    """Pexpect talks to the node over its serial port."""
    with cluster[2].console as console:
        console.sendline("")
        console.expect(r"[$#] ", timeout=60)
        console.sendline("echo $((6 * 7)) $(hostname)")
        console.expect("42 pi-3", timeout=30)


def test_the_monitor_answers(cluster: Cluster) -> None:
    """QMP commands reach the node's QEMU."""
    with cluster[0].monitor as monitor:
        assert monitor.execute("query-status")["running"] is True


def test_only_loopback_listens(cluster: Cluster) -> None:
    """A node's port is on 127.0.0.1 and on no other address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address faces the network
        outer = probe.getsockname()[0]

    for pi in cluster:
        assert pi.host == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((outer, pi.port), timeout=5)


def test_no_password_opens_a_node(cluster: Cluster) -> None:
    """SSH offers the key alone."""
    asked = subprocess.run(
        [*shlex.split(cluster[0].ssh_command), "-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes", "true"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert asked.returncode == 255
    assert "Permission denied (publickey)" in asked.stderr


def test_openssh_opens_a_node_by_the_generated_configuration(cluster: Cluster, tmp_path: Path) -> None:
    """``ssh -F`` with the cluster's configuration knows the nodes by name and their host keys."""
    (tmp_path / "config").write_text(cluster.ssh_config())

    said = subprocess.run(
        ["ssh", "-F", tmp_path / "config", "pi-2", "hostname"], capture_output=True, text=True, timeout=60
    )

    assert said.stdout.strip() == "pi-2", said.stderr


def test_the_private_key_is_its_owners_alone(cluster: Cluster) -> None:
    """The key that opens the nodes has mode 0600."""
    assert stat.S_IMODE(cluster[0].private_key.stat().st_mode) == 0o600


def test_another_process_attaches(cluster: Cluster) -> None:
    """A cluster is found by its name, and used, by a process that did not start it."""
    script = (
        "import sys; from pytest_pidoc import Cluster\n"
        "cluster = Cluster.attach(sys.argv[1]); print(cluster[1].run('hostname').stdout); cluster.close()"
    )

    said = subprocess.run(
        [sys.executable, "-c", script, cluster.name], capture_output=True, text=True, timeout=120, check=True
    )

    assert said.stdout.strip() == "pi-2"


def test_the_inventory_is_ansibles(cluster: Cluster) -> None:
    """The inventory names every node with its port and its key."""
    inventory = cluster.inventory()

    for pi in cluster:
        assert f"    {pi.name}:\n" in inventory
        assert f"ansible_port: {pi.port}\n" in inventory
        assert f'lan_address: "{pi.lan_address}"\n' in inventory
    assert json.dumps(str(cluster[0].private_key)) in inventory


def test_nodes_log_in_to_each_other(cluster: Cluster) -> None:
    """By name and by address, each to all and itself, without a question; a node that was reset is trusted again."""
    everywhere = " ".join(f"{pi.name} {pi.lan_address}" for pi in cluster)
    assert cluster[0].run("ssh pi-2 hostname", warn=True).exited == 255

    cluster.trust()

    assert cluster[0].run("ssh pi-2 hostname").stdout == "pi-2\n"
    said = cluster.run(f"for to in {everywhere} localhost; do ssh $to hostname; done")
    for pi in cluster:
        assert said[pi].stdout.split() == ["pi-1", "pi-1", "pi-2", "pi-2", "pi-3", "pi-3", pi.name]
        assert said[pi].stderr == ""
    assert cluster[2].run("ssh pi-1 sudo id -u").stdout == "0\n"
    key = cluster[0].private_key.read_text()
    assert key not in cluster[0].run("cat ~/.ssh/*").stdout

    cluster[1].reset()
    assert "Permission denied" in cluster[0].run("ssh pi-2 hostname", warn=True).stderr
    cluster.trust()
    assert cluster[0].run("ssh pi-2 ssh pi-3 hostname").stdout == "pi-3\n"


def test_timings_are_in_order(cluster: Cluster) -> None:
    """A node is launched, then answers, then runs a command."""
    for pi in cluster:
        assert 0 < pi.timings.launched <= pi.timings.banner <= pi.timings.ready
        assert pi.timings.start == "warm"


@pytest.fixture
def own(engine: str, settings: Settings, image: Image) -> Cluster:
    """One node that the test may ruin."""
    return Cluster.up(nodes=1, engine=engine, settings=settings)


def test_a_node_that_is_killed_is_named(own: Cluster) -> None:
    """A command whose node is killed meanwhile ends soon, as NodeDied with the serial log; then nothing is left."""
    with own:
        pi = own[0]
        killer = threading.Timer(2, pi.monitor.execute, ["quit"])
        killer.start()
        start = time.monotonic()

        with pytest.raises(NodeDied, match=r"pi-1 died while it ran 'sleep 600': QEMU ended with status 0") as caught:
            pi.run("sleep 600")

        assert time.monotonic() - start < 30
        assert "serial.log" in caught.value.look
        killer.join()
        with pytest.raises(NodeDied):
            pi.run("true")
    assert leftovers(own.name) == []


def test_going_down_leaves_nothing(engine: str, settings: Settings, image: Image) -> None:
    """After ``down`` there is no process, no container and no directory; a second ``down`` is no error."""
    cluster = Cluster.up(nodes=1, engine=engine, settings=settings)
    port = cluster[0].port

    cluster.down()
    cluster.down()

    assert leftovers(cluster.name) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.qemu
def test_what_is_put_on_a_node_that_still_boots_stays(settings: Settings, image: Image, tmp_path: Path) -> None:
    """SSH comes first in a boot; what comes later does not take away what a test has put into /tmp meanwhile."""
    (tmp_path / "file").write_text("mine")
    with Cluster.up(nodes=1, engine="local", start="cold", settings=settings) as cold:
        pi = cold[0]
        pi.put(tmp_path / "file", "/tmp/file")

        assert pi.timings.start == "cold"
        # As root, who does not need the message bus: it comes after SSH.
        assert pi.sudo("systemctl is-system-running --wait", warn=True).stdout.strip() == "running"
        assert pi.run("cat /tmp/file").stdout == "mine"


def test_nothing_that_must_be_unique_is_shared(cluster: Cluster, engine: str, settings: Settings) -> None:
    """No two nodes of one cluster, or of two, share an id, a key, an address or random numbers."""
    what = {
        "machine id": "cat /etc/machine-id",
        "boot id": "cat /proc/sys/kernel/random/boot_id",
        "MAC address": "cat /sys/class/net/eth0/address",
        "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "random numbers": "head -c 32 /dev/urandom | od -An -tx1",
    }
    with Cluster.up(nodes=2, engine=engine, settings=settings) as other:
        nodes = [*cluster, *other]
        for name, command in what.items():
            found = [pi.run(command).stdout.strip() for pi in nodes]
            assert all(found), name
            assert len(set(found)) == len(nodes), f"{name}: {found}"
        keys = [pi.connection.transport.get_remote_server_key().get_base64() for pi in nodes]
        assert len(set(keys)) == len(nodes)


def test_the_clock_is_right(cluster: Cluster) -> None:
    """A node that was forked from a machine saved long ago knows what time it is."""
    assert abs(float(cluster[1].run("date +%s.%N").stdout) - time.time()) < 2


def test_the_journal_is_readable_after_a_fork(cluster: Cluster) -> None:
    """``journalctl`` finds what journald wrote before and after the node got its own machine id."""
    cluster[0].run("logger a message of this test")

    assert "a message of this test" in cluster[0].sudo("journalctl --no-pager -n 50").stdout


def test_a_reset_node_is_as_it_was_at_first(engine: str, settings: Settings, image: Image) -> None:
    """A reset takes back what was written to disk and memory, and keeps name, port and host key."""
    with Cluster.up(nodes=1, engine=engine, settings=settings) as cluster:
        pi = cluster[0]
        port, keys, boot_id = pi.port, vm_of(pi).host_keys, pi.run("cat /proc/sys/kernel/random/boot_id").stdout
        pi.sudo("sh -c 'echo spoiled > /etc/motd; echo spoiled > /run/spoiled; sync'")

        pi.reset()

        assert pi.run("grep -c spoiled /etc/motd /run/spoiled", warn=True, hide=True).stdout.count("spoiled:1") == 0
        assert (pi.port, vm_of(pi).host_keys, pi.run("hostname").stdout.strip()) == (port, keys, "pi-1")
        assert pi.run("cat /proc/sys/kernel/random/boot_id").stdout != boot_id
        with contextlib.closing(Cluster.attach(cluster.name)) as seen:
            assert vm_of(seen[0]).death() is None
    assert leftovers(cluster.name) == []
