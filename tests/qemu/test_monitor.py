"""The monitor, against a peer that says what QEMU would, or what it should not."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support import qmp_peer, unix_server

from pytest_pidoc.errors import MonitorError
from pytest_pidoc.qemu.monitor import Monitor

if TYPE_CHECKING:
    from pathlib import Path

GREETING = b'{"QMP": {}}\r\n'
ACCEPTED = b'{"return": {}}\r\n'


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "qmp.sock"


def saying(*answers: bytes) -> Any:
    """Return a peer that greets, accepts the capabilities, and says the next of *answers* for every line."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        with connection.makefile("rb") as lines:
            for answer, _ in zip((ACCEPTED, *answers), lines, strict=False):
                connection.sendall(answer)

    return serve


def test_negotiates_when_it_connects(path: Path) -> None:
    """The first command is the one that QEMU wants to hear first."""
    requests: list[dict[str, Any]] = []
    with unix_server(path, qmp_peer({}, requests=requests)), Monitor.connect(path):
        assert requests == [{"execute": "qmp_capabilities"}]


def test_execute_returns_what_qemu_returns(path: Path) -> None:
    """The value of ``return`` comes back as it is."""
    with unix_server(path, qmp_peer({"query-status": {"running": True}})), Monitor.connect(path) as monitor:
        assert monitor.execute("query-status") == {"running": True}


def test_execute_passes_arguments(path: Path) -> None:
    """Keyword arguments are the command's arguments."""
    requests: list[dict[str, Any]] = []
    with unix_server(path, qmp_peer({"device_add": {}}, requests=requests)), Monitor.connect(path) as monitor:
        monitor.execute("device_add", driver="usb-net", id="n0")

    assert requests[-1] == {"execute": "device_add", "arguments": {"driver": "usb-net", "id": "n0"}}


def test_human_returns_what_is_printed(path: Path) -> None:
    """A line for the human monitor is sent as such."""
    requests: list[dict[str, Any]] = []
    peer = qmp_peer({"human-monitor-command": "VM status: running\r\n"}, requests=requests)
    with unix_server(path, peer), Monitor.connect(path) as monitor:
        assert monitor.human("info status") == "VM status: running\r\n"

    assert requests[-1]["arguments"] == {"command-line": "info status"}


def test_refusal_is_an_error_with_qemus_reason(path: Path) -> None:
    """What QEMU refuses is a MonitorError that names the command and gives the reason."""
    with (
        unix_server(path, qmp_peer({})),
        Monitor.connect(path, name="pi-1") as monitor,
        pytest.raises(MonitorError, match="pi-1 refused fly: The command fly has not been found"),
    ):
        monitor.execute("fly")


def test_monitor_is_usable_after_a_refusal(path: Path) -> None:
    """A refused command does not put answers out of step."""
    with unix_server(path, qmp_peer({"query-name": {"name": "a"}})), Monitor.connect(path) as monitor:
        with pytest.raises(MonitorError):
            monitor.execute("fly")
        assert monitor.execute("query-name") == {"name": "a"}


def test_event_before_the_greeting_is_kept(path: Path) -> None:
    """What happens while QEMU accepts a connection is told before the greeting."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b'{"event": "RESUME"}\r\n' + GREETING)
        connection.recv(1000)
        connection.sendall(ACCEPTED)

    with unix_server(path, serve), Monitor.connect(path) as monitor:
        assert monitor.events == [{"event": "RESUME"}]


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="QEMU is not installed")
def test_connections_are_made_while_things_happen(short_path: Path) -> None:
    """A machine that goes on and stops all the time takes every connection, with QEMU's events as they come."""
    command = ["qemu-system-aarch64", "-M", "none", "-S", "-nodefaults", "-display", "none"]
    for name in ("one", "other"):
        command += ["-qmp", f"unix:{short_path / name},server=on,wait=off"]
    done = threading.Event()

    def go_on_and_stop(monitor: Monitor) -> None:
        while not done.is_set():
            monitor.execute("cont")
            monitor.execute("stop")
            monitor.events.clear()

    with subprocess.Popen(command) as qemu:
        try:
            with Monitor.connect(short_path / "one") as busy:
                thread = threading.Thread(target=go_on_and_stop, args=(busy,))
                thread.start()
                try:
                    for _ in range(1000):
                        with Monitor.connect(short_path / "other") as monitor:
                            assert "running" in monitor.execute("query-status")
                finally:
                    done.set()
                    thread.join()
        finally:
            qemu.kill()


def test_events_before_an_answer_are_kept(path: Path) -> None:
    """Events are not taken for the answer, and can be read afterwards, in order."""
    events = [{"event": "STOP", "data": {}}, {"event": "RESUME", "data": {}}]
    with unix_server(path, qmp_peer({"stop": [*events, {"return": {}}]})), Monitor.connect(path) as monitor:
        assert monitor.execute("stop") == {}
        assert monitor.events == events


def test_answer_in_pieces(path: Path) -> None:
    """An answer that arrives byte by byte is one answer."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with connection.makefile("rb") as lines:
            for message in (GREETING, ACCEPTED, b'{"return": "whole"}\n'):
                for byte in message:
                    connection.sendall(bytes([byte]))
                lines.readline()

    with unix_server(path, serve), Monitor.connect(path) as monitor:
        assert monitor.execute("query-x") == "whole"


def test_answer_larger_than_a_read(path: Path) -> None:
    """An answer of a megabyte arrives whole."""
    text = "x" * 1_000_000
    with unix_server(path, qmp_peer({"human-monitor-command": text})), Monitor.connect(path) as monitor:
        assert monitor.human("info mtree") == text


def test_qemu_that_ends_is_gone_at_once(path: Path) -> None:
    """An empty read is the end of QEMU, not a reason to read again."""
    with (
        unix_server(path, saying(b"")),
        Monitor.connect(path, name="pi-1", timeout=30) as monitor,
        pytest.raises(MonitorError, match="pi-1 is gone"),
    ):
        monitor.execute("quit")


def test_qemu_that_ends_in_the_middle_of_an_answer(path: Path) -> None:
    """Half an answer is none."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(GREETING + b'{"ret')

    with unix_server(path, serve), pytest.raises(MonitorError, match="is gone"):
        Monitor.connect(path, timeout=30)


def test_silent_qemu_ends_in_bounded_time(path: Path) -> None:
    """A QEMU that hangs is given up after the timeout."""
    with (
        unix_server(path, qmp_peer({"query-status": []})),
        Monitor.connect(path, timeout=1, name="pi-1") as monitor,
        pytest.raises(MonitorError, match="pi-1 did not answer"),
    ):
        monitor.execute("query-status")


def test_monitor_that_serves_somebody_else_ends_in_bounded_time(path: Path) -> None:
    """QEMU serves one connection; a second one gets no greeting and is given up."""
    with (
        unix_server(path, qmp_peer({})),
        Monitor.connect(path),
        pytest.raises(MonitorError, match="did not answer"),
    ):
        Monitor.connect(path, timeout=0.05)


@pytest.mark.parametrize(
    "first",
    [b"SSH-2.0-OpenSSH\r\n", b'{"greeting": 1}\n', b"[]\n", b"7\n", b'"QMP"\n', b"\xff\xfe\n", b"\n"],
)
def test_what_is_no_monitor_is_refused(path: Path, first: bytes) -> None:
    """Whatever else listens there, the error is ours."""
    with (
        unix_server(path, lambda connection: connection.sendall(first)),
        pytest.raises(MonitorError, match=r"not the socket of a QEMU monitor|not JSON|not a message"),
    ):
        Monitor.connect(path, timeout=5)


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[1]\n", b"null\n", b'{"return": \n'])
def test_nonsense_in_place_of_an_answer(path: Path, answer: bytes) -> None:
    """An answer that is no message is a MonitorError that shows it."""
    with (
        unix_server(path, saying(answer)),
        Monitor.connect(path) as monitor,
        pytest.raises(MonitorError, match="sent something that is not"),
    ):
        monitor.execute("query-status")


def test_nobody_listens(path: Path) -> None:
    """A socket that does not appear is given up after the timeout, and the error says where it should be."""
    with pytest.raises(MonitorError, match="Cannot connect to the monitor of pi-1") as caught:
        Monitor.connect(path, timeout=0.05, name="pi-1")

    assert caught.value.look == str(path)


def test_patience_bounds_the_wait_for_a_listener(path: Path) -> None:
    """Who has other things to look at waits shortly for a listener, and long for its answers."""
    with pytest.raises(MonitorError, match="Cannot connect to the monitor of QEMU"):
        Monitor.connect(path, timeout=3600, patience=0.01)


def test_directory_that_is_gone_is_not_waited_for(short_path: Path) -> None:
    """There is nothing to wait for when the node's directory has been removed."""
    with pytest.raises(MonitorError, match="Cannot connect to the monitor of QEMU"):
        Monitor.connect(short_path / "gone" / "qmp.sock", timeout=3600)


def test_waits_for_a_socket_that_appears_later(path: Path) -> None:
    """QEMU makes its socket some time after it was started."""
    ready, done = threading.Event(), threading.Event()

    def late() -> None:
        ready.wait(10)
        with unix_server(path, qmp_peer({"query-status": "late"})):
            done.wait(10)

    thread = threading.Thread(target=late)
    thread.start()
    try:
        timer = threading.Timer(0.05, ready.set)
        timer.start()
        with Monitor.connect(path, timeout=10) as monitor:
            assert monitor.execute("query-status") == "late"
    finally:
        done.set()
        timer.join()
        thread.join()


def test_closing_twice_is_no_error(path: Path) -> None:
    """Close is idempotent."""
    with unix_server(path, qmp_peer({})):
        monitor = Monitor.connect(path)
        monitor.close()
        monitor.close()


def test_closed_monitor_cannot_be_used(path: Path) -> None:
    """A command on a closed monitor is a MonitorError, not an OSError."""
    with unix_server(path, qmp_peer({})):
        monitor = Monitor.connect(path)
        monitor.close()
        with pytest.raises(MonitorError, match="is gone"):
            monitor.execute("query-status")


def test_answer_with_text_beyond_ascii(path: Path) -> None:
    """Messages are UTF-8."""
    message = json.dumps({"return": "Grüße"}, ensure_ascii=False).encode() + b"\n"
    with unix_server(path, saying(message)), Monitor.connect(path) as monitor:
        assert monitor.execute("query-name") == "Grüße"
