"""Unix sockets with long paths: sockaddr_un holds 107 bytes, and temporary directories are often longer."""

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
        The socket does not exist, or nothing listens on it.
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
    """Return a stream socket that listens at *path*, which must not exist yet, for this user only.

    Raises
    ------
    OSError
        The socket cannot be created.
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
    """Return one line; nothing must follow it.

    Raises
    ------
    OSError
        The other side closes the connection too early, or sends nothing for too long.
    """
    received = b""
    while not received.endswith(b"\n"):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the other side closed the connection")
        received += data
    return received
