"""What a node reaches and who reaches it: looked up in the kernel's tables, and tried from within, on both engines."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.host import processes
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.node import Node
from pytest_pidoc.qemu import guard
from pytest_pidoc.values.files import QEMU_LOG

ENGINES = (
    pytest.param("local", marks=pytest.mark.qemu),
    pytest.param("docker", marks=pytest.mark.docker),
)
LISTEN = "0A"  # of TCP, in /proc/net/tcp

needs_border = pytest.mark.skipif(guard.why_open() is not None, reason=f"no host isolation: {guard.why_open()}")

#: Prints what came of connecting to each address, as JSON. An error is its number.
PROBE = """
import errno, json, socket, sys
found = {}
for host, port, kind in json.loads(sys.argv[1]):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        try:
            client.connect((host, port))
            client.sendall(b"hello")
            found[host + " " + kind] = client.recv(100).decode()
        except OSError as error:
            found[host + " " + kind] = errno.errorcode.get(error.errno, "timeout")
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=ENGINES)
def two(request: pytest.FixtureRequest, settings: Settings, image: Image) -> Iterator[Cluster]:
    with Cluster.up(nodes=2, engine=request.param, settings=settings) as cluster:
        yield cluster


@contextlib.contextmanager
def host_services() -> Iterator[tuple[int, list[bytes]]]:
    """Serve TCP and UDP on a port of this machine's 127.0.0.1; give it, and what arrived there."""
    arrived: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.bind(stream.getsockname())

        def serve_stream() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with stream.accept()[0] as connection:
                        arrived.append(connection.recv(100))
                        connection.sendall(b"secret")

        def serve_packets() -> None:
            with contextlib.suppress(OSError):
                while True:
                    content, sender = packets.recvfrom(100)
                    if not content:
                        return
                    arrived.append(content)
                    packets.sendto(b"secret", sender)

        threads = [threading.Thread(target=serve) for serve in (serve_stream, serve_packets)]
        for thread in threads:
            thread.start()
        try:
            yield stream.getsockname()[1], arrived
        finally:
            stream.shutdown(socket.SHUT_RDWR)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", packets.getsockname())
            for thread in threads:
                thread.join(10)


def probe(node: Node, places: list[tuple[str, int, str]]) -> dict[str, str]:
    """Return what root in the guest gets from each place."""
    node.put(io.StringIO(PROBE), "probe.py")
    return dict(json.loads(node.run(f"sudo python3 probe.py {shlex.quote(json.dumps(places))}", timeout=120).stdout))


def sockets_of(pids: set[int], table: str) -> list[list[str]]:
    """Return the rows of a table in ``/proc/PID/net`` that are of sockets of those processes."""
    rows, inodes = [], set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    for row in Path(f"/proc/{min(pids)}/net/{table}").read_text(encoding="ascii", errors="replace").splitlines()[1:]:
        if inodes.intersection(row.split()):
            rows.append(row.split())
    return rows


def pids_of(cluster: Cluster) -> set[int]:
    return {processes.pid(identity) for identity in processes.of_cluster(cluster.name)}


def test_nothing_listens_but_on_loopback(two: Cluster) -> None:
    """Of all processes of the cluster; a container has a network of its own, and one port of it is published."""
    containers = two.engine.name == "docker"
    own = set()
    for pid in pids_of(two):
        if not containers or Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            own.add(pid)
    listening = [row for table in ("tcp", "tcp6") for row in sockets_of(own, table) if row[3] == LISTEN] if own else []

    assert {row[1].split(":")[0] for row in listening} <= {"0100007F"}
    assert len(listening) == (0 if containers else 2)
    for node in two:
        for table in ("tcp", "tcp6"):
            ends = [row.split() for row in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]]
            hosts = {
                row[1].split(":")[0] for row in ends if row[3] == LISTEN and int(row[1].split(":")[1], 16) == node.port
            }
            assert hosts == ({"0100007F"} if table == "tcp" else set())


def test_no_socket_is_without_a_file(two: Cluster) -> None:
    """An abstract one would have no permissions."""
    for pid in pids_of(two):
        with contextlib.suppress(FileNotFoundError):
            for row in sockets_of({pid}, "unix"):
                assert not (row[-1].startswith("@") and "00010000" in row), row


def test_sockets_and_directories_are_the_users_alone(two: Cluster) -> None:
    """Each way to control a node: 0600 in 0700; so is the key, and there is no key in the cluster's directory."""
    found = [two.directory, two.directory.parent, *two.directory.rglob("*")]
    modes = {path: path.lstat().st_mode for path in found}
    sockets = {path.name: stat.S_IMODE(mode) for path, mode in modes.items() if stat.S_ISSOCK(mode)}

    assert {"agent.sock", "console.sock", "lan.sock", "qmp.sock", "switch.sock"} <= set(sockets)
    assert set(sockets.values()) == {0o600}
    assert {stat.S_IMODE(mode) for mode in modes.values() if stat.S_ISDIR(mode)} == {0o700}
    command = shlex.split(two[0].ssh_command)
    key = Path(command[command.index("-i") + 1])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    secret = key.read_bytes()
    assert not any(secret in path.read_bytes() for path, mode in modes.items() if stat.S_ISREG(mode))


def test_no_password_logs_in(two: Cluster) -> None:
    """The server offers keys and nothing else, to pi as to root."""
    for user in ("pi", "root"):
        with contextlib.closing(paramiko.Transport((two[0].host, two[0].port))) as transport:
            transport.start_client(timeout=60)
            with pytest.raises(paramiko.BadAuthenticationType) as caught:
                transport.auth_password(user, "raspberry")
            assert caught.value.allowed_types == ["publickey"]


@needs_border
def test_a_guest_does_not_reach_this_machines_own(two: Cluster) -> None:
    """Not even as root, by any address that QEMU's network has for it; nor a cloud's metadata, nor another node."""
    node, other = two
    # Root can send a packet to 127.0.0.1 over the wire, which QEMU's network takes as it is.
    node.run(
        "sudo sh -c 'sysctl -qw net.ipv4.conf.eth0.route_localnet=1; ip route add 10.0.2.77/32 via 10.0.2.2 dev eth0;"
        " ip route add 127.7.0.0/16 via 10.0.2.2 dev eth0 src 10.0.2.15; ip rule add pref 1 lookup local;"
        " ip rule add to 127.7.0.0/16 lookup main pref 0; ip rule del pref 0 lookup local'",
        timeout=60,
    )
    with host_services() as (port, arrived):
        places = [(host, port, "tcp") for host in ("10.0.2.2", "10.0.2.77", "127.7.0.1", "fec0::2")]
        packets = [("10.0.2.2", port, "udp"), ("127.7.0.1", port, "udp")]
        found = probe(node, [*places, *packets, ("169.254.169.254", 80, "tcp"), ("10.0.2.2", other.port, "tcp")])

    assert set(found.values()) <= {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EACCES", "timeout"}, found
    assert found["10.0.2.2 tcp"] == found["169.254.169.254 tcp"] == "ENETUNREACH"
    assert arrived == []
    log = (node.directory / QEMU_LOG).read_text(encoding="utf-8")
    assert f"refused a connection of the guest to 127.0.0.1 port {port}" in log
    assert "refused a connection of the guest to 127.7.0.1" in log
    assert "refused a connection of the guest to 169.254.169.254 port 80" in log


@needs_border
def test_what_a_guest_is_to_reach_it_reaches(two: Cluster) -> None:
    """Another address of this machine stands for the internet; names are asked for."""
    node = two[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(("192.0.2.1", 9))
        address = way.getsockname()[0]
    with socket.create_server((address, 0)) as server:
        assert node.run(f"timeout 30 bash -c '</dev/tcp/{address}/{server.getsockname()[1]}'", warn=True).ok
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text(encoding="utf-8").splitlines()]
    resolver = next((words[1] for words in lines if words[:1] == ["nameserver"]), "")
    try:
        socket.create_connection((resolver, 53), timeout=5).close()
    except OSError:
        pytest.skip("this machine has no name server that could be asked by TCP")
    if two.engine.name == "local":  # a container may have others
        assert node.run("timeout 30 bash -c '</dev/tcp/10.0.2.3/53'", warn=True).ok


def test_a_guest_reaches_them_where_that_is_asked_for(settings: Settings, image: Image) -> None:
    """With host_access, or not at all without a network; and paths of the user's are no commands and no options."""
    folder = settings.artifacts.parent if settings.artifacts else Path.cwd()
    hostile = folder / "a b,c=d;$(touch escaped)`touch escaped`'\"&%h#"
    hostile.mkdir(exist_ok=True)
    for name in ("images", "stamps", "locks", "logs"):
        (hostile / name).symlink_to(settings.cache_dir / name)
    own = replace(settings, cache_dir=hostile, artifacts=hostile / "artifacts")
    with host_services() as (port, arrived), Cluster.up(nodes=1, engine="local", host_access=True, settings=own) as one:
        assert probe(one[0], [("10.0.2.2", port, "tcp"), ("10.0.2.2", port, "udp")]) == {
            "10.0.2.2 tcp": "secret",
            "10.0.2.2 udp": "secret",
        }
        assert arrived == [b"hello", b"hello"]
    assert not list(hostile.rglob("escaped*"))
    assert not Path("escaped").exists()
