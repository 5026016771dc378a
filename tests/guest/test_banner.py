"""The wait for an SSH banner, against real servers that are late, closed, silent or something else."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support import qmp_peer, tcp_server, unix_server

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.errors import NodeDied
from pytest_pidoc.guest import banner
from pytest_pidoc.guest.banner import await_banner
from pytest_pidoc.qemu.usernet import guest_answers
from pytest_pidoc.values.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BANNER = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"


class Server:
    """What a test's server does with each connection, and how many it has had."""

    def __init__(self) -> None:
        self.connections = 0
        self.release = threading.Event()
        self.behave: Callable[[socket.socket], None] = lambda connection: connection.sendall(BANNER)

    def serve(self, connection: socket.socket) -> None:
        self.connections += 1
        self.behave(connection)
        connection.recv(1)  # until the client closes

    def greet_when_released(self, connection: socket.socket) -> None:
        self.release.wait(10)
        connection.sendall(BANNER)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def address(server: Server) -> Iterator[tuple[str, int]]:
    with tcp_server(server.serve) as found:
        yield found


def healthy() -> None:
    """Find nothing wrong."""


def wait(
    address: tuple[str, int],
    *,
    timeout: float = 10,
    check: Callable[[], None] = healthy,
    answers: Callable[[], bool] = lambda: True,
) -> socket.socket | None:
    return await_banner(address, deadline=Deadline(timeout), check=check, answers=answers)


def test_banner_is_left_for_the_ssh_client(address: tuple[str, int]) -> None:
    """The socket is given back with the whole banner unread."""
    connection = wait(address)

    assert connection is not None
    with connection:
        assert connection.recv(100) == BANNER


def test_late_banner_comes_on_the_first_connection(
    server: Server, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that has accepted is waited for: connecting again would only give it more to do."""
    monkeypatch.setattr(banner, "PATIENCE", 0.01)
    server.behave = server.greet_when_released
    asked: list[bool] = []

    def answers() -> bool:
        asked.append(True)
        if len(asked) == 3:
            server.release.set()
        return True

    connection = wait(address, answers=answers)

    assert connection is not None
    connection.close()
    assert len(asked) >= 3
    assert server.connections == 1


def test_banner_in_pieces(server: Server, address: tuple[str, int]) -> None:
    """Half a banner is waited for until it is whole."""
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        server.release.set()

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"SS")
        server.release.wait(10)
        connection.sendall(BANNER[2:])

    server.behave = behave
    connection = wait(address, check=check)

    assert connection is not None
    connection.close()
    assert looks >= 1


def test_connection_that_is_closed_is_made_again(server: Server, address: tuple[str, int]) -> None:
    """QEMU closes a connection that the guest refused: that is no answer yet."""

    def behave(connection: socket.socket) -> None:
        if server.connections < 3:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(BANNER)

    server.behave = behave
    connection = wait(address)

    assert connection is not None
    connection.close()
    assert server.connections == 3


def test_connection_that_is_closed_after_half_a_banner_is_made_again(server: Server, address: tuple[str, int]) -> None:
    """Text that was left unread does not hide that the connection was closed."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"SS" if server.connections == 1 else BANNER)
        if server.connections == 1:
            connection.shutdown(socket.SHUT_WR)

    server.behave = behave
    connection = wait(address)

    assert connection is not None
    connection.close()
    assert server.connections == 2


def test_connection_that_the_guest_has_not_seen_is_made_again(
    server: Server, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost SYN is repeated ever more slowly by QEMU, so a new connection is faster."""
    monkeypatch.setattr(banner, "PATIENCE", 0.02)

    def behave(connection: socket.socket) -> None:
        if server.connections == 3:
            connection.sendall(BANNER)

    server.behave = behave
    connection = wait(address, answers=lambda: False)

    assert connection is not None
    connection.close()
    assert server.connections == 3


def test_port_that_opens_later(server: Server) -> None:
    """A port that is refused at first is tried again until somebody listens."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        found: list[socket.socket | None] = []
        thread = threading.Thread(target=lambda: found.append(wait(reserved.getsockname(), check=listen)))
        listening = threading.Event()

        def listen() -> None:
            if not listening.is_set():
                reserved.listen()
                listening.set()

        thread.start()
        listening.wait(10)
        connection, _ = reserved.accept()
        with connection:
            connection.sendall(BANNER)
            thread.join(10)

    assert found[0] is not None
    found[0].close()


@pytest.mark.parametrize("said", [b"", b"SS", b"HTTP/1.1 400 Bad Request\r\n"])
def test_no_banner_ends_with_the_deadline(server: Server, address: tuple[str, int], said: bytes) -> None:
    """A server that is silent, or is another, gives nothing when the time is over."""
    server.behave = lambda connection: connection.sendall(said)

    assert wait(address, timeout=0.1) is None


@pytest.mark.parametrize("said", [b"", b"SS", b"HTTP/1.1 400 Bad Request\r\n"])
def test_waiting_costs_little(server: Server, address: tuple[str, int], said: bytes) -> None:
    """The processors are the guests': a waiter sleeps, also behind text that is no banner."""
    server.behave = lambda connection: connection.sendall(said)
    before = time.thread_time()
    wait(address, timeout=0.5)

    assert time.thread_time() - before < 0.25


def test_nobody_listens_ends_with_the_deadline() -> None:
    """A port that stays closed gives nothing when the time is over."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))

        assert wait(reserved.getsockname(), timeout=0.1) is None


def test_no_time_at_all(address: tuple[str, int]) -> None:
    """A deadline that has passed already gives nothing."""
    assert wait(address, timeout=0) is None


@pytest.mark.parametrize("listening", [True, False])
def test_node_that_died_ends_the_wait(server: Server, listening: bool) -> None:
    """What the check raises ends the wait at once, long before the deadline."""
    server.behave = lambda connection: None

    def check() -> None:
        raise NodeDied("pi-1 died.")

    with socket.socket() as closed, tcp_server(server.serve) as served:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NodeDied):
            wait(served if listening else closed.getsockname(), timeout=3600, check=check)


def endpoint(directory: Path) -> Endpoint:
    return Endpoint("local", "127.0.0.1", 1, directory, "1:2:3")


def usernet(*states: str) -> str:
    lines = ["Hub -1 (net0):", "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ"]
    lines += [f"  {state:<18} 11       127.0.0.1 40001       10.0.2.15    22     0     0" for state in states]
    return "\r\n".join([*lines, "  UDP[236 sec]       20       10.0.2.15 35345       10.0.2.3    53     0     0", ""])


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), False),
        (("TCP[HOST_FORWARD]",), False),
        (("TCP[HOST_FORWARD]", "TCP[SYN_SENT]"), False),
        (("TCP[HOST_FORWARD]", "TCP[ESTABLISHED]"), True),
        (("TCP[HOST_FORWARD]", "TCP[SYN_SENT]", "TCP[FIN_WAIT_1]"), True),
    ],
)
def test_guest_has_accepted_when_qemu_says_so(short_path: Path, states: tuple[str, ...], expected: bool) -> None:
    """QEMU's list of connections tells a SYN without an answer from a connection."""
    with unix_server(short_path / "qmp.sock", qmp_peer({"human-monitor-command": usernet(*states)})):
        assert guest_answers(endpoint(short_path).directory) is expected


def test_connection_to_another_port_is_not_ssh(short_path: Path) -> None:
    """Only connections to the guest's port 22 count."""
    text = usernet("TCP[HOST_FORWARD]", "TCP[ESTABLISHED]").replace("   22 ", "   80 ")
    with unix_server(short_path / "qmp.sock", qmp_peer({"human-monitor-command": text})):
        assert guest_answers(endpoint(short_path).directory) is False


def test_monitor_that_does_not_answer_wants_patience(short_path: Path) -> None:
    """A QEMU too busy to say is not drowned in new connections."""
    with unix_server(short_path / "qmp.sock", lambda connection: None):
        assert guest_answers(endpoint(short_path).directory) is True
