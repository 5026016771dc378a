"""The terminal of ``pidoc console``: a child process on a pseudoterminal or a pipe, and a socket."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest
from support import eventually, unix_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHILD = """
import pathlib, sys
from pytest_pidoc.commands import passthrough
from pytest_pidoc.host import sockets
with sockets.connect(pathlib.Path(sys.argv[1])) as connection:
    passthrough.pass_through(connection)
print("left")
"""


def echo(connection: socket.socket) -> None:
    """Send back what comes, in brackets."""
    connection.sendall(b"ready\r\n")
    while data := connection.recv(100):
        connection.sendall(b"<" + data + b">")


def hang_up(connection: socket.socket) -> None:
    connection.sendall(b"bye\r\n")


@contextlib.contextmanager
def passing(path: Path, stdin: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdin=stdin, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a pseudoterminal: the person's and the program's."""
    person, program = pty.openpty()
    yield person, program
    os.close(person)
    os.close(program)


@pytest.fixture
def serve(short_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], Path]]:
    with contextlib.ExitStack() as closing:
        yield lambda behave: closing.enter_context(unix_server(short_path / "console.sock", behave))


def test_keys_go_there_and_answers_come_back(serve: Callable[..., Path], terminal: tuple[int, int]) -> None:
    """Every key is passed on at once, Ctrl-C and Enter too, and is not echoed here."""
    with passing(serve(echo), terminal[1]) as process:
        assert process.stdout.read(7) == b"ready\r\n"
        os.write(terminal[0], b"a\x03\r")
        seen = b""
        while seen.count(b">") < 1 or not seen.endswith(b">") or b"\r" not in seen:
            seen += process.stdout.read(1)

        assert seen.replace(b"><", b"") == b"<a\x03\r>"


def test_escape_leaves(serve: Callable[..., Path], terminal: tuple[int, int]) -> None:
    """Ctrl-] ends it; what was typed before is still sent."""
    with passing(serve(echo), terminal[1]) as process:
        assert process.stdout.read(7) == b"ready\r\n"
        os.write(terminal[0], b"\x1d")

        assert process.stdout.read() == b"left\n"
        assert process.wait(10) == 0


def test_terminal_is_as_before_afterwards(serve: Callable[..., Path], terminal: tuple[int, int]) -> None:
    """The terminal's settings come back."""
    before = termios.tcgetattr(terminal[1])
    with passing(serve(echo), terminal[1]) as process:
        assert eventually(lambda: termios.tcgetattr(terminal[1]) != before)
        os.write(terminal[0], b"\x1d")
        assert process.wait(10) == 0

    assert termios.tcgetattr(terminal[1]) == before


def test_ends_when_the_console_does(serve: Callable[..., Path], terminal: tuple[int, int]) -> None:
    """A node that is gone closes its console, and the command ends."""
    with passing(serve(hang_up), terminal[1]) as process:
        assert process.stdout.read() == b"bye\r\nleft\n"


def test_script_without_a_terminal(serve: Callable[..., Path]) -> None:
    """From a pipe, input is passed on as it is, and its end is the end."""
    received: list[bytes] = []

    def collect(connection: socket.socket) -> None:
        while data := connection.recv(100):
            received.append(data)

    with passing(serve(collect), subprocess.PIPE) as process:
        process.stdin.write(b"reboot\n")
        process.stdin.close()

        assert process.wait(10) == 0
        assert eventually(lambda: b"".join(received) == b"reboot\n")
