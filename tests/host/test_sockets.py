"""Unix sockets behind long paths."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support import unix_server

from pytest_pidoc.host import sockets


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")


def test_connects_to_a_short_path(short_path: Path) -> None:
    """A usual path works."""
    with unix_server(short_path / "a.sock", greet) as path, sockets.connect(path) as connection:
        assert connection.recv(5) == b"hello"


def test_connects_to_a_path_longer_than_an_address(tmp_path: Path) -> None:
    """A path that does not fit into sockaddr_un works too, where a plain connect is refused."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with unix_server(folder / "a.sock", greet) as path:
        with socket.socket(socket.AF_UNIX) as plain, pytest.raises(OSError, match="too long"):
            plain.connect(str(path))
        with sockets.connect(path) as connection:
            assert connection.recv(5) == b"hello"


def test_timeout_holds_for_every_operation(short_path: Path) -> None:
    """A peer that never answers is given up."""
    with (
        unix_server(short_path / "a.sock", lambda connection: connection.recv(1) and None) as path,
        sockets.connect(path, timeout=0.05) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.recv(1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing.sock", FileNotFoundError),
        ("nowhere/a.sock", FileNotFoundError),
        ("file", ConnectionRefusedError),
        ("file/a.sock", NotADirectoryError),
    ],
)
def test_nobody_there(short_path: Path, name: str, expected: type[OSError]) -> None:
    """A socket that is not there, or that nobody serves, is the OSError that it always is."""
    (short_path / "file").write_text("")
    with pytest.raises(expected):
        sockets.connect(short_path / name)


@pytest.mark.parametrize("name", ["nothing.sock", "a.sock"])
def test_leaves_no_descriptor_open(short_path: Path, name: str) -> None:
    """Whether or not it connects, nothing of it stays open."""
    with unix_server(short_path / "a.sock", greet):
        before = list(Path("/proc/self/fd").iterdir())
        try:
            connection = sockets.connect(short_path / name)
        except FileNotFoundError:
            pass
        else:
            connection.recv(5)
            assert connection.recv(1) == b""  # so the peer's end, which is in this process, is closed as well
            connection.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
