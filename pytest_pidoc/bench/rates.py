"""``pidoc bench rates``: how fast disk and network are in a node, against the same QEMU without what we add.

Plain is a machine that was booted, with its RAM in anonymous memory and one overlay on its disk: what the same command
line gives by hand. The other is what a test gets: a fork, with the RAM and the disk of its template below its own. Both
run side by side and are measured by turns, so that whatever else this machine does meets both.

One QEMU is faster than the next of the same command line, for as long as it runs: the medians of four plain `pi3` that
wrote to their SD cards by turns were 17 % apart. So each run has two nodes of its own, and they, not the single
transfers, are what is compared.
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
from pytest_pidoc.settings import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["Rate", "RatesReport", "rates", "size_for"]

ENOUGH = 2.0  # seconds of one measurement: a network card on USB gets 256 KiB in, a virtio disk writes 1 GiB
MOST = 512 * MIB  # bytes of one measurement: they lie on the node's disk, and in an overlay on this machine's
TIMEOUT = 600  # seconds that one measurement may take
LAPS = 3  # measurements of each node

_IN = """
import socket, sys, time
peer = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
left = int(sys.argv[2]) << 17
print("BEGIN", time.monotonic(), flush=True)
peer.sendall(b"r%d\\n" % left)
while left > 0:
    left -= len(peer.recv(1 << 18))
print("END", time.monotonic())
"""

_OUT = """
import socket, sys, time
peer = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
number, piece = int(sys.argv[2]), bytes(1 << 17)
print("BEGIN", time.monotonic(), flush=True)
peer.sendall(b"w%d\\n" % (number << 17))
for _ in range(number):
    peer.sendall(piece)
peer.recv(1)
print("END", time.monotonic())
"""


@dataclass(frozen=True)
class Way:
    """What is measured: a command that moves SIZE units; this machine listens on PORT.

    Attributes
    ----------
    unit
        Bytes.
    """

    command: str
    unit: int


def _dd(operands: str) -> Way:
    return Way(marked(f"dd bs=1M count=SIZE {operands}"), MIB)


def _network(program: str) -> Way:
    return Way(f"python3 -c {shlex.quote(program.replace('BEGIN', BEGIN).replace('END', END))} PORT SIZE", 1 << 17)


#: By their names. A file is written where it was before: what a first write costs, the host's file system decides.
WAYS = {
    "disk write": _dd("if=/dev/zero of=rates oflag=direct conv=fsync,notrunc"),
    "disk read": _dd("if=rates of=/dev/null iflag=direct"),
    "network in": _network(_IN),
    "network out": _network(_OUT),
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
        Of each run, a plain node and one as tests get it, which were measured by turns: the medians of their laps.
    """

    model: str
    way: str
    size: float
    plain: tuple[Lap, ...]
    node: tuple[Lap, ...]

    def rates(self, side: Sequence[Lap]) -> list[float]:
        """Return the bytes per second of each node."""
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
                *(each.model, each.way, f"{each.size:g}"),
                *(spread([rate / 1e6 for rate in each.rates(side)]) for side in (each.plain, each.node)),
                *(spread(each.kept), spread(each.work)),
            )
            for each in self.rates
        ]
        head = ("model", "way", "MiB", "plain MB/s", "node MB/s", "rate, node / plain", "processor time, node / plain")
        notes = [
            *(f"{name}: {obstacle}" for name, obstacle in self.obstacles.items()),
            f"{self.host}; engine local, {self.qemu}",
            "medians, and in brackets the least and the most; each run has a plain node and another of its own,"
            " measured by turns",
        ]
        return "\n".join([table(head, rows), *notes])


def rates(settings: Settings, *, runs: int, progress: Progress, names: Sequence[str]) -> RatesReport:
    """Measure each way of each of the models that are named, with *runs* pairs of nodes, on the engine ``local``.

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
    model, version = settings.model, ""
    node = replace(settings, engine="local", nodes=1, start="warm", host_access=True)
    plain = replace(node, start="cold")
    sizes: dict[str, int] = {}
    laps: dict[str, list[tuple[Lap, Lap]]] = {way: [] for way in WAYS}
    for run in range(1, runs + 1):
        progress.step(f"{model}, run {run} of {runs}: starting two nodes")
        with (
            Cluster.up(settings=node, progress=progress) as ours,
            Cluster.up(settings=plain, progress=progress) as theirs,
        ):
            for name, way in WAYS.items():
                lap = partial(_lap, way.command.replace("PORT", str(port)))
                if name not in sizes:
                    sizes[name] = size_for(partial(_seconds, lap, theirs[0]), MOST // way.unit)
                progress.step(f"{model}, run {run} of {runs}: {name}, {sizes[name] * way.unit / MIB:g} MiB")
                laps[name].append(_by_turns(partial(lap, size=sizes[name]), (theirs[0], ours[0])))
            version = str(ours.engine.qemu_version(ours[0].machine.binary))
    return version, [
        Rate(model, name, sizes[name] * WAYS[name].unit / MIB, *zip(*pairs, strict=True))
        for name, pairs in laps.items()
    ]


def _lap(command: str, node: Node, size: int) -> Lap:
    return timed(node, command.replace("SIZE", str(size)), timeout=TIMEOUT)


def _seconds(lap: Callable[[Node, int], Lap], node: Node, size: int) -> float:
    return lap(node, size).seconds


def _by_turns(lap: Callable[[Node], Lap], nodes: tuple[Node, Node]) -> tuple[Lap, Lap]:
    """Measure two nodes, `LAPS` times each; return the medians of both."""
    laps: tuple[list[Lap], list[Lap]] = ([], [])
    for node in nodes:
        lap(node)  # a first time, which does not count
    for number in range(LAPS):
        for each in (0, 1) if number % 2 else (1, 0):  # neither is always the second
            laps[each].append(lap(nodes[each]))
    one, other = (
        Lap(statistics.median(lap.seconds for lap in side), statistics.median(lap.processor for lap in side))
        for side in laps
    )
    return one, other


def size_for(measure: Callable[[int], float], most: int) -> int:
    """Return how many times take as long as a measurement should, and have been measured.

    Parameters
    ----------
    measure
        Returns how many seconds so many times take.
    most
        How many it may be.
    """
    size = 1
    while (seconds := min(measure(size), measure(size))) < ENOUGH and size < most:  # one may have had to wait
        # Half as much again as seems to be enough: a small one is slower than a large one.
        size = min(most, size * 16, max(size + 1, int(1.5 * size * ENOUGH / max(seconds, 0.001))))
    return size


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
