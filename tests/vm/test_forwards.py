"""Port forwards: by a real QEMU without a guest, and over a real SSH server in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from typing import TYPE_CHECKING

import paramiko
import pytest
from support import (
    SshServer,
    StandInEngine,
    eventually,
    make_image,
    make_launch,
    node_of,
    qmp_peer,
    tcp_server,
    unix_server,
)

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import MonitorError, NodeDied, SettingsError
from pytest_pidoc.host import processes
from pytest_pidoc.node import Node
from pytest_pidoc.values.files import QMP_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

qemu = pytest.mark.qemu


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, LocalEngine]]:
    """Run a machine that has nothing to boot."""
    folder = tmp_path_factory.mktemp("node")
    launch = make_launch(
        folder / "pi-1",
        make_image(folder / "image", disk=True),
        cluster=f"c-forwards-{os.getpid()}",
        memory=64 * 1024**2,
    )
    engine = LocalEngine()
    endpoint = engine.start(launch)
    try:
        with contextlib.closing(node_of(launch, engine, endpoint)) as node:
            yield node, engine
    finally:
        engine.stop(endpoint)


@pytest.fixture
def by_qemu(machine: tuple[Node, LocalEngine]) -> Node:
    return machine[0]


@pytest.fixture
def by_ssh(tmp_path: Path) -> Iterator[tuple[Node, SshServer]]:
    image = make_image(tmp_path / "image")
    key = paramiko.ECDSAKey.from_private_key_file(str(image.file("private_key")))
    with contextlib.closing(SshServer(tmp_path / "home", client_key=key)) as server:
        pinned = dataclasses.replace(
            image, manifest=dataclasses.replace(image.manifest, host_keys=(server.public_key,))
        )
        launch = make_launch(tmp_path / "pi-1", pinned)
        endpoint = Endpoint("docker", "127.0.0.1", server.port, launch.directory, "0123")
        with contextlib.closing(node_of(launch, StandInEngine(), endpoint)) as node:
            node.run("true")
            yield node, server


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@qemu
def test_qemu_listens_until_the_end_of_the_block(by_qemu: Node) -> None:
    """The forward says where it is, on 127.0.0.1 only."""
    with by_qemu.forward(80) as web:
        assert (web.host, web.guest_port, web.protocol) == ("127.0.0.1", 80, "tcp")
        assert listens(web.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", web.port), timeout=5)
        assert by_qemu.forwards == (web,)

    assert not listens(web.port)
    assert by_qemu.forwards == ()


@qemu
def test_several_forwards_of_one_port(by_qemu: Node) -> None:
    """Each has a port of its own, and closing one leaves the others and SSH's alone."""
    first, second = by_qemu.forward(80), by_qemu.forward(80)
    first.close()
    first.close()

    assert not listens(first.port)
    assert listens(second.port)
    assert listens(by_qemu.port)
    second.close()


@qemu
def test_forward_while_the_monitor_is_open(by_qemu: Node) -> None:
    """QEMU serves one monitor connection, and that is used."""
    assert by_qemu.monitor.execute("query-status")
    with by_qemu.forward(80) as web:
        assert listens(web.port)
    assert not listens(web.port)


@qemu
def test_forward_of_udp(by_qemu: Node) -> None:
    """QEMU has the port, so nobody else can."""
    with (
        by_qemu.forward(53, protocol="udp") as dns,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        pytest.raises(OSError, match="in use"),
    ):
        other.bind((dns.host, dns.port))


@qemu
def test_closing_the_node_ends_its_forwards(by_qemu: Node) -> None:
    """They belong to who opened them."""
    web = by_qemu.forward(80)
    by_qemu.close()

    assert not web.active
    assert not listens(web.port)


@qemu
def test_forward_of_a_node_that_dies(tmp_path: Path) -> None:
    """It goes with its QEMU: closing it is no error and takes no time; a new one is one."""
    image = make_image(tmp_path / "image", disk=True)
    launch = make_launch(tmp_path / "pi-1", image, cluster=f"c-dies-{os.getpid()}", memory=64 * 1024**2)
    engine = LocalEngine()
    endpoint = engine.start(launch)
    node = node_of(launch, engine, endpoint)
    try:
        web = node.forward(80)
        processes.kill(endpoint.handle)
        assert eventually(lambda: engine.death(endpoint))
        web.close()
        with pytest.raises(NodeDied, match="pi-1 died before its port 80 was forwarded: QEMU was killed by signal 9"):
            node.forward(80)
    finally:
        engine.stop(endpoint)

    assert not listens(web.port)


def test_what_qemu_says_is_shown(tmp_path: Path, short_path: Path) -> None:
    """A QEMU that refuses is an error with its words, after a few ports were tried."""
    launch = make_launch(short_path / "pi-1", make_image(tmp_path / "image"))
    node = node_of(launch, StandInEngine(), Endpoint("local", "127.0.0.1", 1, launch.directory, "1:2:3"))
    answers = {"human-monitor-command": "invalid host forwarding rule\r\n"}
    requests: list[dict[str, object]] = []
    with (
        unix_server(launch.directory / QMP_SOCKET, qmp_peer(answers, requests=requests)),
        pytest.raises(MonitorError, match="QEMU cannot forward to port 80 of pi-1") as caught,
    ):
        node.forward(80)

    assert caught.value.evidence == "invalid host forwarding rule"
    assert node.forwards == ()


def shout(connection: socket.socket) -> None:
    """Answer everything that was sent, in capitals, when the other side has finished."""
    data = b""
    while more := connection.recv(4096):
        data += more
    connection.sendall(data.upper())


def ask(port: int, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


def test_forward_over_ssh(by_ssh: tuple[Node, SshServer]) -> None:
    """Both directions, each to its end, to the address that QEMU forwards to as well."""
    node, server = by_ssh
    with tcp_server(shout) as (_, port), node.forward(port) as forward:
        text = b"abc" * 100_000
        assert ask(forward.port, text) == text.upper()
        assert ask(forward.port, b"again") == b"AGAIN"

    assert server.wanted == [("10.0.2.15", port)] * 2
    assert not listens(forward.port)


def test_nobody_listens_in_the_guest(by_ssh: tuple[Node, SshServer]) -> None:
    """Who connects is hung up on, and the next one can try."""
    node, _ = by_ssh
    with tcp_server(shout) as (_, port):
        pass
    with node.forward(port) as forward:
        for _ in range(2):
            with socket.create_connection((forward.host, forward.port), timeout=10) as connection:
                assert connection.recv(1) == b""


def test_guest_that_goes_away(by_ssh: tuple[Node, SshServer]) -> None:
    """Who is connected is hung up on; closing is no error."""
    node, server = by_ssh
    with tcp_server(lambda connection: connection.sendall(connection.recv(1))) as (_, port):
        forward = node.forward(port)
        with socket.create_connection((forward.host, forward.port), timeout=10) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            server.hang_up()
            assert connection.recv(1) == b""
        forward.close()


def test_udp_over_ssh(by_ssh: tuple[Node, SshServer]) -> None:
    """SSH cannot carry it, so the error names the engine that can."""
    with pytest.raises(SettingsError, match="engine docker can forward only tcp, not udp") as caught:
        by_ssh[0].forward(53, protocol="udp")

    assert "local" in caught.value.tip


def test_no_protocol(by_ssh: tuple[Node, SshServer]) -> None:
    """The error names those that there are."""
    with pytest.raises(SettingsError, match='protocol must be "tcp" or "udp", not \'sctp\''):
        by_ssh[0].forward(80, protocol="sctp")
