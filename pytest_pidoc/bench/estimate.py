"""``pidoc bench guest --estimate``: how long small programs might take on real boards, and how wrong that can be.

The published figures say how long sysbench's CPU test took on each board. Its instructions are counted here, in a
32-bit guest, as those boards ran one. That gives each board's time per instruction of sysbench; the estimate for
another program is the number of its instructions times that.

The error is a factor. A core starts no more instructions in a cycle than it can issue; how far sysbench is from that
limit says how much faster other programs could be. The largest such factor of all boards is used for all of them, in
both directions: the published figures do not say how much slower other programs can be, nor how many instructions
another compiler made of sysbench.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_pidoc.bench.published import CORES, EVENTS, MAX_PRIME, PHYSICAL
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.node import Node
from pytest_pidoc.pi_benchmark.measure import measure
from pytest_pidoc.pi_benchmark.metrics import DEFAULT_MIPS, metric
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["EstimateReport", "Guess", "estimate", "factor", "guess"]

MODEL = "pi2-virt"  # armhf is nearest to what Raspbian is compiled for: 32 bits, with a floating-point unit
ROUNDS = 3
PRIME = "sysbench prime"


@dataclass(frozen=True)
class _Program:
    """A command that does something SIZE times.

    Attributes
    ----------
    few, many
        Two sizes: the cost of starting the command is in both, so it is not in their difference.
    told
        The size of the estimate, and its name in the report.
    """

    command: str
    few: int
    many: int
    told: tuple[int, str]


_SYSBENCH = f"sysbench cpu --cpu-max-prime={MAX_PRIME} --time=0 --events=SIZE run"
_PROGRAMS = (
    _Program(_SYSBENCH, 10, 60, (EVENTS, f"{PRIME}, {EVENTS:,} events")),
    _Program(
        "bash -c 'for ((i = 0; i < SIZE; i++)); do :; done'", 1000, 51_000, (1_000_000, "bash loop, 1,000,000 rounds")
    ),
    _Program("python3 -c 'for i in range(SIZE): i * i'", 1000, 501_000, (10_000_000, "python loop, 10,000,000 rounds")),
    _Program("head -c SIZE /dev/zero | sha256sum", 1 << 16, 5 << 20, (1 << 30, "sha256sum, 1 GiB")),
)


@dataclass(frozen=True)
class Guess:
    """An estimate of a program's time on one board, in seconds, and the range of the true time."""

    seconds: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.seconds:.3g} ({self.least:.3g} to {self.most:.3g})"


@dataclass(frozen=True)
class EstimateReport:
    """The estimates: the instructions of each program, counted on `MODEL`."""

    qemu: str
    instructions: Mapping[str, float]

    @property
    def anchor(self) -> float:
        """The number of instructions of the published test."""
        return self.instructions[_PROGRAMS[0].told[1]]

    def guesses(self, program: str) -> dict[str, Guess]:
        """Return the estimate for each board."""
        return {board: guess(board, self.instructions[program], self.anchor) for board in PHYSICAL}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        guesses = {
            program: {board: asdict(each) for board, each in self.guesses(program).items()}
            for program in self.instructions
        }
        return {**asdict(self), "factor": factor(self.anchor), "seconds": guesses}

    def __str__(self) -> str:
        rows = [
            (program, f"{count:.3g}", *map(str, self.guesses(program).values()))
            for program, count in self.instructions.items()
        ]
        head = ("estimated seconds (minimum to maximum)", "instructions", *PHYSICAL)
        notes = [
            f"instructions counted on {MODEL}, {self.qemu}; the times in the first row are the published ones",
            f"an estimate can be wrong by a factor of {factor(self.anchor):.2f}; "
            "programs that wait for memory, a disk or a network can take longer",
        ]
        return "\n".join([table(head, rows), *notes])


def guess(board: str, instructions: float, anchor: float) -> Guess:
    """Return an estimate of a program's time on a board.

    Parameters
    ----------
    board
        One of those with a published figure.
    instructions
        How many the program executes.
    anchor
        The number of instructions of the published test.
    """
    seconds, off = PHYSICAL[board] / anchor * instructions, factor(anchor)
    return Guess(seconds, seconds / off, seconds * off)


def factor(anchor: float) -> float:
    """Return the factor by which an estimate can be wrong: how far a published figure is from its core's limit at most.

    Parameters
    ----------
    anchor
        The number of instructions of the published test.
    """
    limits = {board: anchor / (core.megahertz * 1e6 * core.issues) for board, core in CORES.items()}
    ratios = [PHYSICAL[board] / limit for board, limit in limits.items()]
    return max(*ratios, *(1 / ratio for ratio in ratios))


def estimate(settings: Settings, *, progress: Progress) -> EstimateReport:
    """Count the instructions of some small programs in a guest whose clock counts them.

    Raises
    ------
    PidocError
        The node cannot be started, or a program cannot be measured.
    """
    counting = replace(settings, model=MODEL, nodes=1, cpus=None, start="warm", mips=DEFAULT_MIPS)
    with Cluster.up(settings=counting, progress=progress) as cluster:
        node = cluster[0]
        counts = {}
        for program in _PROGRAMS:
            size, name = program.told
            progress.step(f"{MODEL}: counting the instructions of {name}")
            few, many = (
                _count(node, program.command.replace("SIZE", str(each))) for each in (program.few, program.many)
            )
            counts[name] = (many - few) / (program.many - program.few) * size
        return EstimateReport(str(cluster.engine.qemu_version(node.machine.binary)), counts)


def _count(node: Node, command: str) -> float:
    """Return how many instructions the guest executes while a command runs; it does almost nothing else meanwhile."""
    wanted = metric("virtual_time")
    return measure(node, command, wanted=wanted, rounds=ROUNDS).value(wanted.name) * DEFAULT_MIPS * 1e6
