"""Unix sockets whose path may be long: sockaddr_un ends at 107 bytes, a temporary directory does not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["connect", "listen", "read_line"]


def connect(path: Path, timeout: float | None = None) -> socket.socket:
    """Connect to the stream socket at *path*; *timeout* in seconds then holds for every operation.

    Raises
    ------
    OSError
        There is no such socket, or nobody listens.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def listen(path: Path) -> socket.socket:
    """Return a stream socket that listens at *path*, where there must be nothing, for this user alone.

    Raises
    ------
    OSError
        It cannot be made.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def read_line(connection: socket.socket) -> bytes:
    """Return what comes until a line has ended, at whose end nothing else is expected.

    Raises
    ------
    OSError
        The other side has closed the connection before, or is silent for too long.
    """
    received = b""
    while not received.endswith(b"\n"):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the connection was closed at the other side")
        received += data
    return received
