"""``pidoc bench rates``: how fast disk and network are in a node, against the same QEMU without what we add.

Plain is a machine that was booted, with its RAM in anonymous memory and one overlay on its disk: what the same command
line gives by hand. The other is what a test gets: a fork, with the RAM and the disk of its template below its own. Both
run side by side and are measured by turns.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import statistics
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_pidoc.bench import host, spread
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import PidocError
from pytest_pidoc.machines import machine
from pytest_pidoc.node import Node
from pytest_pidoc.progress import Progress
from pytest_pidoc.settings import Settings
from pytest_pidoc.tables import table

__all__ = ["Rate", "RatesReport", "rates"]

SIZE = 8  # MiB of each measurement
MIB = 1 << 20

_IN = """
import socket, sys, time
peer = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
peer.sendall(b"r")
began, left = time.monotonic(), int(sys.argv[2])
while left > 0:
    left -= len(peer.recv(1 << 18))
print(int(sys.argv[2]) / (time.monotonic() - began))
"""

_OUT = """
import socket, sys, time
peer = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
peer.sendall(b"w")
content, began = bytes(int(sys.argv[2])), time.monotonic()
peer.sendall(content)
peer.recv(1)
print(len(content) / (time.monotonic() - began))
"""

#: What is measured, and the command that prints bytes per second; this machine listens on the port in it.
WAYS = {
    "disk write": f"dd if=/dev/zero of=rates bs=1M count={SIZE} oflag=direct conv=fsync 2>&1",
    "disk read": f"dd if=rates of=/dev/null bs=1M count={SIZE} iflag=direct 2>&1",
    "network in": f"python3 -c {shlex.quote(_IN)} PORT {SIZE * MIB}",
    "network out": f"python3 -c {shlex.quote(_OUT)} PORT {SIZE * MIB}",
}


@dataclass(frozen=True)
class Rate:
    """One way of one model: bytes per second of each measurement, plain and of a node as tests get it."""

    model: str
    way: str
    plain: tuple[float, ...]
    node: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """What is left of the plain rate: of the medians."""
        return statistics.median(self.node) / statistics.median(self.plain)


@dataclass(frozen=True)
class RatesReport:
    """What ``pidoc bench rates`` measured."""

    host: str
    qemu: str
    rates: tuple[Rate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**asdict(self), "ratios": [each.ratio for each in self.rates]}

    def __str__(self) -> str:
        rows = [
            (each.model, each.way, *(spread([rate / 1e6 for rate in side]) for side in (each.plain, each.node)), ratio)
            for each in self.rates
            for ratio in [f"{each.ratio:.2f}"]
        ]
        notes = [f"{self.host}; engine local, {self.qemu}", "medians, and in brackets the least and the most"]
        return "\n".join([table(("model", "way", "plain MB/s", "node MB/s", "ratio"), rows), *notes])


def rates(settings: Settings, *, runs: int, progress: Progress, names: Sequence[str]) -> RatesReport:
    """Measure *runs* times each way of each of the models that are named, on the engine ``local``.

    Raises
    ------
    SettingsError
        There is no such model.
    PidocError
        A node cannot be started.
    """
    found, versions = [], set()
    with _peer() as port:
        for name in names:
            progress.step(f"starting two nodes of {name}")
            node = replace(
                settings, engine="local", model=machine(name.strip()).name, nodes=1, start="warm", host_access=True
            )
            plain = replace(node, start="cold")
            with (
                Cluster.from_spec(node.spec(), node, progress=progress) as ours,
                Cluster.from_spec(plain.spec(), plain, progress=progress) as theirs,
            ):
                versions.add(str(ours.engine.qemu_version(ours[0].machine.binary)))
                for way, command in WAYS.items():
                    progress.step(f"{name}: {way}")
                    pairs = [(_rate(theirs[0], command, port), _rate(ours[0], command, port)) for _ in range(runs)]
                    sides = tuple(zip(*pairs, strict=True))
                    found.append(Rate(name, way, sides[0], sides[1]))
    return RatesReport(host(), ", ".join(sorted(versions)), tuple(found))


def _rate(node: Node, command: str, port: int) -> float:
    """Return the bytes per second that a command tells, in a number alone or as dd does."""
    said = node.run(command.replace("PORT", str(port)), timeout=600).stdout.strip()
    last = said.splitlines()[-1]
    try:
        if " copied, " in last:  # 16777216 bytes (17 MB, 16 MiB) copied, 0.5 s, 33.6 MB/s
            return int(last.split()[0]) / float(last.split(" copied, ")[1].split()[0])
        return float(last)
    except ValueError as error:
        raise PidocError(f"{node.name} has told no rate.", evidence=said) from error


@contextlib.contextmanager
def _peer() -> Iterator[int]:
    """Listen on this machine for nodes that read, or write, as much as is measured; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            with server.accept()[0] as connection, contextlib.suppress(ConnectionError):
                if connection.recv(1) == b"r":
                    connection.sendall(bytes(SIZE * MIB))
                    connection.recv(1)  # until it is closed
                else:
                    left = SIZE * MIB
                    while left > 0 and (data := connection.recv(1 << 18)):
                        left -= len(data)
                    connection.sendall(b".")
