"""``pidoc bench rates``: how fast disk and network are in a node, against the same QEMU without what we add.

Plain is a machine that was booted, with its RAM in anonymous memory and one overlay on its disk: what the same command
line gives by hand. The other is what a test gets: a fork, with the RAM and the disk of its template below its own. Both
run side by side and are measured by turns, so that whatever else this machine does meets both.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from pytest_pidoc.bench import host, spread
from pytest_pidoc.bench.stopwatch import BEGIN, END, Lap, marked, timed
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import PidocError
from pytest_pidoc.machines import MIB, machine
from pytest_pidoc.node import Node
from pytest_pidoc.progress import Progress
from pytest_pidoc.settings import Settings
from pytest_pidoc.tables import table

__all__ = ["Rate", "RatesReport", "rates", "size_for"]

ENOUGH = 2.0  # seconds of one measurement: a network card on USB does not get 1 MiB in, a virtio disk writes 1 GiB
MOST = 512  # MiB of one measurement: it lies on the node's disk, and in an overlay on this machine's
TIMEOUT = 600  # seconds that one measurement may take

_IN = """
import socket, sys, time
peer = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
left = int(sys.argv[2]) << 20
print("BEGIN", time.monotonic(), flush=True)
peer.sendall(b"r%d\\n" % left)
while left > 0:
    left -= len(peer.recv(1 << 18))
print("END", time.monotonic())
"""

_OUT = """
import socket, sys, time
peer = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
mebibytes, piece = int(sys.argv[2]), bytes(1 << 20)
print("BEGIN", time.monotonic(), flush=True)
peer.sendall(b"w%d\\n" % (mebibytes << 20))
for _ in range(mebibytes):
    peer.sendall(piece)
peer.recv(1)
print("END", time.monotonic())
"""


def _quoted(program: str) -> str:
    return shlex.quote(program.replace("BEGIN", BEGIN).replace("END", END))


def _dd(operands: str) -> str:
    return marked(f"dd bs=1M count=SIZE {operands}")


#: What is measured, and the command that moves SIZE MiB; this machine listens on PORT. A file is written where it was
#: before: what a first write costs, the host's file system decides.
WAYS = {
    "disk write": _dd("if=/dev/zero of=rates oflag=direct conv=fsync,notrunc"),
    "disk read": _dd("if=rates of=/dev/null iflag=direct"),
    "network in": f"python3 -c {_quoted(_IN)} PORT SIZE",
    "network out": f"python3 -c {_quoted(_OUT)} PORT SIZE",
}


@dataclass(frozen=True)
class Rate:
    """One way of one model.

    Attributes
    ----------
    model, way
        What was measured.
    size
        MiB that each measurement moved.
    plain, node
        Each measurement, plain and of a node as tests get it: those of one place were made one right after the other.
    """

    model: str
    way: str
    size: int
    plain: tuple[Lap, ...]
    node: tuple[Lap, ...]

    def rates(self, side: Sequence[Lap]) -> list[float]:
        """Return the bytes per second of each measurement."""
        return [self.size * MIB / lap.seconds for lap in side]

    @property
    def kept(self) -> list[float]:
        """What is left of the plain rate, of each pair."""
        return [plain.seconds / node.seconds for plain, node in zip(self.plain, self.node, strict=True)]

    @property
    def work(self) -> list[float]:
        """The processor time that it takes, as a multiple of what it takes plain, of each pair."""
        return [node.processor / plain.processor for plain, node in zip(self.plain, self.node, strict=True)]


@dataclass(frozen=True)
class RatesReport:
    """What ``pidoc bench rates`` measured, and why models could not be, by their names."""

    host: str
    qemu: str
    rates: tuple[Rate, ...]
    obstacles: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every model was measured."""
        return not self.obstacles

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: every measurement, and the medians of the ratios."""
        medians = [{"rate": statistics.median(each.kept), "work": statistics.median(each.work)} for each in self.rates]
        return {**asdict(self), "ratios": medians}

    def __str__(self) -> str:
        rows = [
            (
                *(each.model, each.way, each.size),
                *(spread([rate / 1e6 for rate in each.rates(side)]) for side in (each.plain, each.node)),
                *(spread(each.kept), spread(each.work)),
            )
            for each in self.rates
        ]
        head = ("model", "way", "MiB", "plain MB/s", "node MB/s", "rate, node / plain", "processor time, node / plain")
        notes = [
            *(f"{name}: {obstacle}" for name, obstacle in self.obstacles.items()),
            f"{self.host}; engine local, {self.qemu}",
            "medians, and in brackets the least and the most; ratios are those of pairs, measured by turns",
        ]
        return "\n".join([table(head, rows), *notes])


def rates(settings: Settings, *, runs: int, progress: Progress, names: Sequence[str]) -> RatesReport:
    """Measure *runs* times each way of each of the models that are named, on the engine ``local``.

    A model that cannot be measured is listed with the reason, and the others are measured all the same.

    Raises
    ------
    SettingsError
        There is no such model.
    """
    models = [machine(name.strip()).name for name in names]
    found: list[Rate] = []
    versions, obstacles = set(), {}
    with _peer() as port:
        for model in models:
            try:
                version, measured = _measure(replace(settings, model=model), port, runs=runs, progress=progress)
                versions.add(version)
                found += measured
            except PidocError as error:
                obstacles[model] = error.what
    return RatesReport(host(), ", ".join(sorted(versions)), tuple(found), obstacles)


def _measure(settings: Settings, port: int, *, runs: int, progress: Progress) -> tuple[str, list[Rate]]:
    """Return the version of a model's QEMU, and what was measured."""
    model, found = settings.model, []
    progress.step(f"starting two nodes of {model}")
    node = replace(settings, engine="local", nodes=1, start="warm", host_access=True)
    plain = replace(node, start="cold")
    with (
        Cluster.from_spec(node.spec(), node, progress=progress) as ours,
        Cluster.from_spec(plain.spec(), plain, progress=progress) as theirs,
    ):
        for way, command in WAYS.items():
            way_of = _Way(command, port)
            size = size_for(partial(way_of.seconds, theirs[0]))
            way_of.lap(ours[0], size)  # a first time, which does not count: the other node has had it, too
            progress.step(f"{model}: {way}, {size} MiB")
            sides: dict[Node, list[Lap]] = {theirs[0]: [], ours[0]: []}
            for run in range(runs):
                for each in list(sides)[:: -1 if run % 2 else 1]:  # neither is always the second
                    sides[each].append(way_of.lap(each, size))
            found.append(Rate(model, way, size, tuple(sides[theirs[0]]), tuple(sides[ours[0]])))
        return str(ours.engine.qemu_version(ours[0].machine.binary)), found


def size_for(measure: Callable[[int], float], most: int = MOST) -> int:
    """Return how many MiB take as long as a measurement should, and have been moved once.

    Parameters
    ----------
    measure
        Returns how many seconds it takes to move so many MiB.
    most
        How many it may be.
    """
    size = 1
    while (seconds := min(measure(size), measure(size))) < ENOUGH and size < most:  # one may have had to wait
        # Half as much again as seems to be enough: a small one is slower than a large one.
        size = min(most, size * 16, max(size + 1, int(1.5 * size * ENOUGH / max(seconds, 0.001))))
    return size


class _Way:
    """One of `WAYS`, to be measured with any size, in MiB."""

    def __init__(self, command: str, port: int) -> None:
        self._command = command.replace("PORT", str(port))

    def lap(self, node: Node, size: int) -> Lap:
        return timed(node, self._command.replace("SIZE", str(size)), timeout=TIMEOUT)

    def seconds(self, node: Node, size: int) -> float:
        return self.lap(node, size).seconds


@contextlib.contextmanager
def _peer() -> Iterator[int]:
    """Listen on this machine for nodes that read or write as much as they say first; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket) -> None:
    piece = bytes(MIB)
    with contextlib.suppress(OSError):
        while True:
            with (
                server.accept()[0] as connection,
                connection.makefile("rb") as stream,
                contextlib.suppress(ConnectionError),
            ):
                asked = stream.readline()
                left = int(asked[1:])
                if asked.startswith(b"r"):
                    while left > 0:
                        connection.sendall(piece)
                        left -= len(piece)
                    stream.read()  # until it is closed
                else:
                    while left > 0 and (data := stream.read1(1 << 18)):
                        left -= len(data)
                    connection.sendall(b".")
