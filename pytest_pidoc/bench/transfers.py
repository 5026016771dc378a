"""Commands that move data in a guest: to its disk, from it, and in from another node."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pidoc.bench.stopwatch import marked
from pytest_pidoc.machines import MIB

__all__ = ["DISK", "RECEIVE", "Way"]


@dataclass(frozen=True)
class Way:
    """A command that moves SIZE units of *unit* bytes each."""

    command: str
    unit: int


def _dd(operands: str) -> Way:
    return Way(marked(f"dd bs=1M count=SIZE {operands}"), MIB)


#: By their names. The file exists already when it is written: the host's file system decides what a first write costs.
DISK = {
    "disk write": _dd("if=/dev/zero of=rates oflag=direct conv=fsync,notrunc"),
    "disk read": _dd("if=rates of=/dev/null iflag=direct"),
}

#: A program in Python that reads one connection to its end and answers with the number of bytes.
RECEIVE = """
import socket
connection, _ = socket.create_server(("", 9000)).accept()
size = 0
while data := connection.recv(1 << 18):
    size += len(data)
connection.sendall(b"%d" % size)
"""
