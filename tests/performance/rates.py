"""The subject ``rates``: how fast disk and network are in a node, against the same QEMU without what pytest-pidoc adds.

The plain node was booted, with its RAM in anonymous memory and one overlay on its disk, as the same command line does
by hand. The other one is what a test gets: a fork, which reads RAM and disk from its template until it writes. Both run
side by side and are measured alternately, so that other work on the host slows down both.

QEMU processes with the same command line differ in speed for as long as they run: the medians of four plain `pi3` that
alternately wrote to their SD cards were 17 % apart. So each run starts two new nodes, and the nodes are compared, not
the single transfers.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.bench.stopwatch import BEGIN, END, Lap, alternately, size_for, timed
from pytest_pidoc.bench.transfers import DISK, Way
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.choose import choose
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.machines import MIB, machine
from pytest_pidoc.node import Node
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["WAYS", "Rate", "RatesReport", "rates"]

MOST = 512 * MIB  # bytes of one measurement: they are written to the node's disk, and so to an overlay on the host
TIMEOUT = 600  # seconds, of one measurement
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


def _network(program: str) -> Way:
    return Way(f"python3 -c {shlex.quote(program.replace('BEGIN', BEGIN).replace('END', END))} PORT SIZE", 1 << 17)


#: By their names. Those of the network connect to PORT of the host.
WAYS = {**DISK, "network in": _network(_IN), "network out": _network(_OUT)}


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
        For each run, a plain node and one as tests get it, measured alternately: the medians of their laps.
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
        """The node's rate as a share of the plain one's, for each pair."""
        return [plain.seconds / node.seconds for plain, node in zip(self.plain, self.node, strict=True)]

    @property
    def work(self) -> list[float]:
        """The node's processor time as a multiple of the plain one's, for each pair."""
        return [node.processor / plain.processor for plain, node in zip(self.plain, self.node, strict=True)]


@dataclass(frozen=True)
class RatesReport(Report):
    """How fast disk and network are.

    Attributes
    ----------
    rates
        What was measured.
    obstacles
        Why models could not be measured, by their names.
    failed
        Those that this host's QEMU supports all the same.
    """

    rates: tuple[Rate, ...]
    obstacles: dict[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every model was measured that this host's QEMU supports."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: every measurement, and the medians of the ratios."""
        medians = [{"rate": statistics.median(each.kept), "work": statistics.median(each.work)} for each in self.rates]
        return {**super().to_dict(), "ratios": medians}

    def body(self) -> str:
        """Return a row for each way of each model."""
        rows = [
            (
                *(each.model, each.way, f"{each.size:g}"),
                *(spread([rate / 1e6 for rate in each.rates(side)]) for side in (each.plain, each.node)),
                *(spread(each.kept), spread(each.work)),
            )
            for each in self.rates
        ]
        head = ("model", "way", "MiB", "plain MB/s", "node MB/s", "rate, node / plain", "processor time, node / plain")
        return table(head, rows)

    def notes(self) -> list[str]:
        """Return which models could not be measured, where it was, and what the figures are."""
        return [
            *(f"{name}: {obstacle}" for name, obstacle in self.obstacles.items()),
            self.where(),
            f"{SPREAD}; each run starts a plain node and a forked one, and measures them alternately",
        ]


def rates(settings: Settings, *, runs: int, progress: Progress, names: Sequence[str]) -> RatesReport:
    """Measure each way of each named model, with *runs* pairs of nodes, on the engine ``local``.

    The report lists a model that cannot be measured with the reason; the others are measured all the same.

    Raises
    ------
    SettingsError
        There is no model of one of the *names*.
    EngineUnavailable
        The engine ``local`` cannot be used.
    """
    models = [machine(name.strip()).name for name in names]
    choose("local")
    found: list[Rate] = []
    versions, obstacles, failed = set(), {}, []
    with _peer() as port:
        for model in models:
            try:
                version, measured = _measure(replace(settings, model=model), port, runs=runs, progress=progress)
                versions.add(version)
                found += measured
            except PidocError as error:
                obstacles[model] = error.what
                if not isinstance(error, EngineUnavailable):
                    failed.append(model)
    return RatesReport(host(), "local", ", ".join(sorted(versions)), tuple(found), obstacles, tuple(failed))


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
                laps[name].append(_medians(partial(lap, size=sizes[name]), theirs[0], ours[0]))
            version = str(ours.engine.qemu_version(ours[0].machine.binary))
    return version, [
        Rate(model, name, sizes[name] * WAYS[name].unit / MIB, *zip(*pairs, strict=True))
        for name, pairs in laps.items()
    ]


def _lap(command: str, node: Node, size: int) -> Lap:
    return timed(node, command.replace("SIZE", str(size)), timeout=TIMEOUT)


def _seconds(lap: Callable[[Node, int], Lap], node: Node, size: int) -> float:
    return lap(node, size).seconds


def _medians(lap: Callable[[Node], Lap], plain: Node, node: Node) -> tuple[Lap, Lap]:
    """Measure two nodes, `LAPS` times each after a first time that does not count; return the medians of both."""
    for each in (plain, node):
        lap(each)
    one, other = (
        Lap(statistics.median(lap.seconds for lap in side), statistics.median(lap.processor for lap in side))
        for side in alternately(lap, plain, node, runs=LAPS)
    )
    return one, other


@contextlib.contextmanager
def _peer() -> Iterator[int]:
    """Listen on the host for nodes that read or write as many bytes as they first ask for; give the port."""
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
