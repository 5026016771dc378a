"""The LAN of a cluster, looked at from inside the guests: it connects, falls apart, and is slow, as asked for."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import FaultError
from pytest_pidoc.host import processes

if TYPE_CHECKING:
    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed"),
]


@pytest.fixture(scope="module")
def engine() -> str:
    return "local"


HEAR = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 5353))
if sys.argv[1].startswith("224."):
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(sys.argv[1]) + bytes(4))
print(s.recvfrom(100)[0].decode())
"""

SAY = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for _ in range(50):
    s.sendto(b"hello", (sys.argv[1], 5353))
    time.sleep(0.1)
"""

RECEIVE = """
import hashlib, socket
connection, _ = socket.create_server(("", 9000)).accept()
digest = hashlib.sha256()
while data := connection.recv(65536):
    digest.update(data)
print(digest.hexdigest())
"""

SEND = """
import socket, sys, time
for _ in range(300):
    try:
        connection = socket.create_connection((sys.argv[1], 9000))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
began = time.monotonic()
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(time.monotonic() - began)
"""


def python(node: Node, program: str, *arguments: object) -> str:
    """Run a Python program on a node and return what it prints."""
    return node.run(f"timeout 90 python3 -c {shlex.quote(program)} {' '.join(map(str, arguments))}").stdout


def send(cluster: Cluster, size: int) -> tuple[float, str]:
    """Send that many bytes from the first node to the second; return the seconds and the digest of what came."""
    with ThreadPoolExecutor() as pool:
        received = pool.submit(python, cluster[1], RECEIVE)
        return float(python(cluster[0], SEND, "pi-2", size)), received.result().strip()


def ping(node: Node, to: str, *, count: int = 5, interval: float = 0.05) -> tuple[int, float]:
    """Return how many of *count* packets came back, and their median round trip in seconds."""
    said = node.run(f"ping -n -c {count} -i {interval} -W 2 {to}", warn=True).stdout
    times = sorted(float(time) for time in re.findall(r"time=([\d.]+) ms", said))
    return len(times), times[len(times) // 2] / 1000 if times else 0.0


@contextlib.contextmanager
def neighbours_known(cluster: Cluster) -> Iterator[None]:
    """Let each node know the others' cards without asking by ARP: Linux drops what waits for an answer in vain."""
    pairs = [(node, other) for node in cluster for other in cluster if other is not node]
    cards = {node.name: node.run("cat /sys/class/net/eth1/address").stdout.strip() for node in cluster}
    for node, other in pairs:
        node.sudo(f"ip neigh replace {other.lan_address} lladdr {cards[other.name]} dev eth1 nud permanent")
    try:
        yield
    finally:
        for node, other in pairs:
            node.sudo(f"ip neigh del {other.lan_address} dev eth1")


def await_answer(node: Node, to: str) -> None:
    """Wait until a packet comes back: a busy machine may be slow, and ARP have to ask anew."""
    node.wait_until_succeeds(f"ping -n -q -c 1 -W 2 {to}", timeout=20)


def is_cut_off(node: Node, to: str) -> bool:
    """Tell whether neither of two packets comes back within half a second."""
    return not node.run(f"ping -n -q -c 2 -i 0.2 -W 0.5 {to}", warn=True).ok


def test_nodes_know_each_other(cluster: Cluster) -> None:
    """By name and address, each way, and every card is another."""
    for node in cluster:
        for other in cluster:
            assert other.lan_address in node.run(f"getent ahostsv4 {other.name}").stdout
            assert ping(node, other.name)[0] == 5
    assert [node.lan_address for node in cluster] == ["192.168.77.1", "192.168.77.2", "192.168.77.3"]
    assert len({node.run("cat /sys/class/net/eth1/address").stdout for node in cluster}) == 3
    assert {node.run("cat /sys/class/net/eth1/mtu").stdout for node in cluster} == {"1500\n"}


def test_large_packets_pass(cluster: Cluster) -> None:
    """As large as the MTU allows, unfragmented, and a megabyte over TCP arrives as it was sent."""
    assert cluster[0].run("ping -n -c 3 -i 0.1 -M do -s 1472 pi-2").ok

    took, digest = send(cluster, 1_000_000)

    assert took > 0
    assert digest == hashlib.sha256(bytes(1_000_000)).hexdigest()


@pytest.mark.parametrize("group", ["224.0.0.251", "192.168.77.255"], ids=["multicast", "broadcast"])
def test_packet_for_all_reaches_all(cluster: Cluster, group: str) -> None:
    """To the group of mDNS and to the broadcast address; a program need not name the card."""
    with ThreadPoolExecutor() as pool:
        heard = [pool.submit(python, node, HEAR, group) for node in cluster[1:]]
        python(cluster[0], SAY, group)
        assert [each.result() for each in heard] == ["hello\n", "hello\n"]


def test_partition_keeps_groups_apart_and_heals(cluster: Cluster) -> None:
    """Again and again: between the groups nothing passes, within one everything, and at the end all of it, at once."""
    first, second, third = cluster
    with neighbours_known(cluster):
        for _ in range(5):
            with cluster.partition([first], [second, "pi-3"]):
                assert ping(first, "pi-2", count=3)[0] == 0
                assert ping(third, "pi-1", count=3)[0] == 0
                assert ping(second, "pi-3")[0] == 5
            assert ping(first, "pi-3", count=1)[0] == 1
            assert ping(third, "pi-1", count=1)[0] == 1


def test_nodes_that_are_not_named_stay_together(cluster: Cluster) -> None:
    with cluster.partition([cluster[2]]) as fault:
        assert fault.what == "partition pi-3 | pi-1, pi-2"
        assert is_cut_off(cluster[0], "pi-3")
        await_answer(cluster[0], "pi-2")


def test_cable_that_is_out(cluster: Cluster) -> None:
    """The guest sees that it has no carrier; SSH goes on, and afterwards all is as before."""
    carrier = "cat /sys/class/net/eth1/carrier"
    with cluster[1].network.down():
        assert cluster[1].run(carrier).stdout == "0\n"
        assert is_cut_off(cluster[0], "pi-2")
        await_answer(cluster[0], "pi-3")

    assert cluster[1].run(carrier).stdout == "1\n"
    await_answer(cluster[0], "pi-2")


def test_delay_and_loss_are_what_was_asked_for(cluster: Cluster) -> None:
    """Of one pair alone; the median round trip, and the share that is lost there or back."""
    usual = ping(cluster[0], "pi-2", count=20)[1]
    with cluster.degrade(delay=0.2, between=(cluster[0], "pi-2")):
        assert 0.2 <= ping(cluster[0], "pi-2", count=20)[1] - usual <= 0.26
        assert ping(cluster[0], "pi-3", count=20)[1] < 0.1
    with cluster.degrade(loss=0.1, between=("pi-1", "pi-2")) as fault:
        answered, _ = ping(cluster[0], "pi-2", count=400, interval=0.005)
    assert 280 <= answered <= 365  # 0.9 * 0.9 of 400 are 324
    assert re.match(r"degraded between pi-1 and pi-2: loss 0\.1$", fault.what)


def test_rate_is_limited(cluster: Cluster) -> None:
    """A quarter of a megabyte at 1 Mbit/s takes 2 s."""
    with cluster.degrade(rate=1_000_000):
        took, _ = send(cluster, 250_000)

    assert 1.9 <= took <= 6


def test_clusters_do_not_see_each_other(cluster: Cluster, settings: Settings) -> None:
    """They have the same addresses, and each hears itself alone."""
    with Cluster.up(nodes=2, engine=cluster.engine.name, settings=settings) as other:
        with cluster.partition(["pi-1"], ["pi-2", "pi-3"]):
            await_answer(other[0], "pi-2")
        assert is_cut_off(other[0], cluster[2].lan_address or "")


def test_node_that_was_reset_is_in_the_lan_again(cluster: Cluster) -> None:
    cluster[2].reset()

    await_answer(cluster[2], "pi-1")
    await_answer(cluster[0], "pi-3")


@pytest.mark.parametrize("internet", [True, False])
def test_outside_is_reached_unless_it_is_not_to_be(settings: Settings, internet: bool) -> None:
    """What stands for it is this machine, which a guest that may sees as 10.0.2.2. SSH works either way."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Cluster.up(nodes=1, engine="local", internet=internet, settings=replace(settings, host_access=True)) as cluster,
    ):
        connect = f"timeout 5 bash -c '</dev/tcp/10.0.2.2/{server.getsockname()[1]}'"
        assert cluster[0].run(connect, warn=True).ok is internet


@pytest.mark.docker
def test_containers_have_a_lan(settings: Settings) -> None:
    """The switch is a process of this machine's, and its sockets are in the nodes' directories."""
    with Cluster.up(nodes=2, engine="docker", settings=settings) as cluster:
        assert ping(cluster[0], "pi-2")[0] == 5
        with cluster.partition([cluster[0]]):
            assert is_cut_off(cluster[0], "pi-2")
        cluster[1].reset()
        await_answer(cluster[0], "pi-2")
    assert not cluster.directory.exists()


def test_faults_are_in_order_or_refused(settings: Settings) -> None:
    """What cannot be meant is said at once; without a LAN there is nothing to cut, and a killed switch is named."""
    with Cluster.up(nodes=2, engine="local", settings=settings, internet=False) as cluster:
        with pytest.raises(FaultError, match=r"pi-1 is in the groups 1 and 2"):
            cluster.partition([cluster[0]], [cluster[0], cluster[1]])
        await_answer(cluster[0], "pi-2")
        processes.kill(cluster[0]._lan.handle)  # type: ignore[union-attr]
        assert processes.wait(cluster[0]._lan.handle, timeout=5)  # type: ignore[union-attr]
        with pytest.raises(FaultError, match=r"The network switch of .* has ended"):
            cluster.partition([cluster[0]])
        assert is_cut_off(cluster[0], "pi-2")
    with Cluster.up(nodes=1, engine="local", settings=settings, lan=False) as alone:
        assert alone[0].lan_address is None
        with pytest.raises(FaultError, match=f"The cluster {alone.name} has no LAN"):
            alone.partition([alone[0]])
