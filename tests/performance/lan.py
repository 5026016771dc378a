"""The subject ``lan``: what the LAN of a cluster costs and carries, and whether its faults are what was asked for.

Everything is measured from inside the guests. The plain connection for comparison is QEMU's own between two nodes,
``-netdev stream``; the nodes are the same in everything else.
"""

from __future__ import annotations

import re
import shlex
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.bench.transfers import RECEIVE
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import EngineUnavailable, SettingsError
from pytest_pidoc.host import processes
from pytest_pidoc.lifecycle.attempt import Ownership
from pytest_pidoc.lifecycle.provision import Provision, provision
from pytest_pidoc.lifecycle.start import start
from pytest_pidoc.machines import machine
from pytest_pidoc.node import Node
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["LanReport", "lan"]

PARTITIONS = 50
PACKETS = 1000
DELAY, LOSS = 0.2, 0.1
TRANSFER = 20_000_000  # bytes
RECONNECTS = (9, 2)  # the first QEMU with -netdev stream,reconnect-ms=
TIMEOUT = 300  # seconds, of one measurement

_SEND = """
import socket, sys, time
while True:
    try:
        connection = socket.create_connection((sys.argv[1], 9000))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
piece = bytes(1 << 18)
began = time.monotonic()
for _ in range(int(sys.argv[2]) // len(piece)):
    connection.sendall(piece)
connection.shutdown(socket.SHUT_WR)
size = int(connection.recv(100))
print(size / (time.monotonic() - began))
"""

_COUNT = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 9000))
print("bound", flush=True)
numbers = set()
while (data := server.recv(100)) != b"end":
    numbers.add(data)
print(len(numbers))
"""

_SPRAY = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
time.sleep(2)
for number in range(int(sys.argv[2])):
    client.sendto(b"%d" % number, (sys.argv[1], 9000))
    time.sleep(0.005)
for _ in range(50):
    time.sleep(0.1)
    client.sendto(b"end", (sys.argv[1], 9000))
"""


@dataclass(frozen=True)
class LanReport(Report):
    """What the network between nodes costs and carries.

    Attributes
    ----------
    model
        The model that was measured.
    ready
        Seconds until the last of three nodes was ready, of each start: ``with`` a LAN, and ``without``.
    crossed, answered
        How many packets were answered, and how many were sent: between the groups of a partition, and within a group.
    healed
        Seconds from the end of each partition until a packet from one group to the other was answered.
    delay
        Seconds that a delay of 0.2 s added to the median round trip.
    lost
        The share of packets that did not arrive with a loss of 0.1.
    carried, plain
        Bytes per second of each transfer over TCP between two nodes, through the switch and without.
    """

    model: str
    ready: dict[str, tuple[float, ...]]
    crossed: tuple[int, int]
    answered: tuple[int, int]
    healed: tuple[float, ...]
    delay: float
    lost: float
    carried: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """What the LAN carries as a share of what a plain connection carries: the ratio of the medians."""
        return statistics.median(self.carried) / statistics.median(self.plain)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**super().to_dict(), "ratio": self.ratio}

    def body(self) -> str:
        """Return a row for everything that was measured."""
        rows = [
            (f"three nodes ready, {kind} a LAN", f"{spread(times)} s")
            for kind, times in self.ready.items()
        ]  # fmt: skip
        rows += [
            ("answers from the other group of a partition", "{} of {}".format(*self.crossed)),
            ("answers within a group", "{} of {}".format(*self.answered)),
            (f"healed after, {len(self.healed)} times", f"{spread(self.healed)} s"),
            (f"added to a round trip, of {DELAY:g} s asked for", f"{self.delay:.3f} s"),
            (f"lost of {PACKETS} packets, of {LOSS:.0%} asked for", f"{self.lost:.1%}"),
            ("TCP through the switch", f"{spread([rate / 1e6 for rate in self.carried])} MB/s"),
            ("TCP over -netdev stream", f"{spread([rate / 1e6 for rate in self.plain])} MB/s"),
            ("ratio of the medians", f"{self.ratio:.2f}"),
        ]
        return table(("what", "measured"), rows)

    def notes(self) -> list[str]:
        """Return where it was, and what the figures are."""
        return [self.where(self.model), SPREAD]


def lan(settings: Settings, *, runs: int, progress: Progress) -> LanReport:
    """Measure the LAN of the model in *settings* on the engine ``local``: *runs* starts and transfers of each kind.

    Raises
    ------
    SettingsError
        The model has no LAN.
    EngineUnavailable
        QEMU is older than 9.2, the first one that connects two nodes whichever starts first.
    """
    model = machine(settings.model)
    if not model.lan:
        raise SettingsError(f"The model {settings.model} has no LAN.", tip="use --model pi3-virt")
    qemu = LocalEngine().qemu_version(model.binary)
    if qemu.numbers < RECONNECTS:
        raise EngineUnavailable(
            f"{qemu} is too old to measure the LAN, which needs 9.2.", tip="install QEMU 9.2 or newer"
        )
    settings = replace(settings, engine="local", nodes=3, start="warm", lan=True)
    with Cluster.up(settings=settings, progress=progress) as cluster:  # and the template is made
        crossed, answered, healed = _partitions(cluster, progress)
        delay = _delay(cluster, progress)
        lost = _loss(cluster, progress)
    ready: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(runs):
        for kind, times in ready.items():
            progress.step(f"starting three nodes {kind} a LAN")
            given = replace(settings, lan=kind == "with")
            with Cluster.up(settings=given) as started:
                times.append(started.timings.ready)
    carried, plain = _transfers(replace(settings, nodes=2), runs, progress)
    starts = {kind: tuple(each) for kind, each in ready.items()}
    return LanReport(
        host(), "local", str(qemu), settings.model, starts, crossed, answered, healed, delay, lost, carried, plain
    )


def _partitions(cluster: Cluster, progress: Progress) -> tuple[tuple[int, int], tuple[int, int], tuple[float, ...]]:
    progress.step(f"making and healing {PARTITIONS} partitions")
    crossed = answered = 0
    healed = []
    first, second, third = cluster
    for _ in range(PARTITIONS):
        with cluster.partition([first], [second, third]):
            with ThreadPoolExecutor() as pool:
                across = [pool.submit(_ping, first, "pi-2", 5), pool.submit(_ping, third, "pi-1", 5)]
                within = pool.submit(_ping, second, "pi-3", 5)
            crossed += sum(len(each.result()) for each in across)
            answered += len(within.result())
        began = time.monotonic()
        first.wait_until_succeeds("ping -n -q -c 1 -W 2 pi-3", timeout=30)
        healed.append(time.monotonic() - began)
    return (crossed, PARTITIONS * 10), (answered, PARTITIONS * 5), tuple(healed)


def _delay(cluster: Cluster, progress: Progress) -> float:
    progress.step(f"adding a delay of {DELAY:g} s")
    usual = statistics.median(_ping(cluster[0], "pi-2", 50))
    with cluster.degrade(delay=DELAY, between=("pi-1", "pi-2")):
        return statistics.median(_ping(cluster[0], "pi-2", 50)) - usual


def _loss(cluster: Cluster, progress: Progress) -> float:
    progress.step(f"adding a loss of {LOSS:.0%}")
    with cluster.degrade(loss=LOSS, between=("pi-1", "pi-2")), ThreadPoolExecutor() as pool:
        counted = pool.submit(_python, cluster[1], _COUNT)
        _python(cluster[0], _SPRAY, "pi-2", PACKETS)
        return 1 - int(counted.result().split()[-1]) / PACKETS


def _transfers(settings: Settings, runs: int, progress: Progress) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Send the same data alternately through a switch and without one."""
    carried, plain = [], []
    with provision(settings.spec(), settings, progress) as found:
        progress.step("starting two nodes with a switch between them, and two without")
        direct = Provision(found.image, _Direct())
        with _up(settings, found) as switched, _up(settings, direct) as connected:
            for number in range(1, runs + 1):
                progress.step(f"transfer {number} of {runs}")
                carried.append(_transfer(switched))
                plain.append(_transfer(connected))
    return tuple(carried), tuple(plain)


def _up(settings: Settings, found: Provision) -> Cluster:
    spec = settings.spec()
    ownership = Ownership(processes.own())
    started = start(spec, settings, found, ownership=ownership, progress=Progress(), present=Cluster)
    return Cluster(started)


class _Direct(LocalEngine):
    """Connects its second node to its first, without a switch, whichever of them starts first."""

    def arguments(self, launch: Launch) -> list[str]:
        """Return the command line with the other network."""
        place = f"addr.type=unix,addr.path={launch.directory.parent / 'direct.sock'}"
        side = "server=on" if launch.name == "pi-1" else "server=off,reconnect-ms=100"
        direct = f"stream,id=lan0,{side},{place}"
        return [re.sub(r"^stream,id=lan0,server=off,.*", direct, part) for part in super().arguments(launch)]


def _transfer(cluster: Cluster) -> float:
    """Return the bytes per second of a transfer from the first node to the second."""
    with ThreadPoolExecutor() as pool:
        received = pool.submit(_python, cluster[1], RECEIVE)
        rate = float(_python(cluster[0], _SEND, "pi-2", TRANSFER))
        received.result()
    return rate


def _ping(node: Node, to: str, count: int) -> list[float]:
    """Return the seconds of each round trip that was completed."""
    said = node.run(f"ping -n -c {count} -i 0.05 -W 1 {to}", warn=True).stdout
    return [float(milliseconds) / 1000 for milliseconds in re.findall(r"time=([\d.]+) ms", said)]


def _python(node: Node, program: str, *arguments: object) -> str:
    done = node.run(f"timeout {TIMEOUT} python3 -c {shlex.quote(program)} {' '.join(map(str, arguments))}")
    return str(done.stdout)
