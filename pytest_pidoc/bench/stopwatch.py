"""How long something takes in a node: by the host's clock, and in processor time of the host.

A guest's clock is the host's, unless its QEMU runs with ``-icount``: then it counts instructions, and stands still
while other processes have the processor. For such a node the time is taken when its lines arrive on the host; on a busy
host that is some time after the guest printed them. The processor time is that of the node's QEMU alone: it does not
include what other processes use.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pytest_pidoc.errors import PidocError
from pytest_pidoc.node import Node

__all__ = ["BEGIN", "END", "Lap", "Marks", "alternately", "marked", "processor_time", "size_for", "timed"]

ENOUGH = 2.0  # seconds of one measurement: a network card on USB gets 256 KiB in, a virtio disk writes 1 GiB

#: The lines that a command prints before and after what is measured, so that its own start does not count. The time on
#: the guest's clock follows each, in seconds.
BEGIN, END = "pidoc-begin", "pidoc-end"

T = TypeVar("T")


@dataclass(frozen=True)
class Lap:
    """One measurement.

    Attributes
    ----------
    seconds
        How long it took.
    processor
        Seconds that the node's QEMU ran on the host's processors meanwhile.
    said
        What the command printed meanwhile.
    """

    seconds: float
    processor: float
    said: str = ""


class Marks(io.StringIO):
    """What a command prints, and what the host's clocks showed when its marks arrived."""

    def __init__(self, clock: Callable[[], tuple[float, float]]) -> None:
        super().__init__()
        self._clock = clock
        self._arrived: dict[str, tuple[float, float]] = {}

    def write(self, text: str) -> int:
        """Take a piece of what is printed; a mark can arrive in two pieces."""
        written = super().write(text)
        for mark in (BEGIN, END):
            if mark not in self._arrived and self._find(mark):
                self._arrived[mark] = self._clock()
        return written

    def lap(self, *, counting: bool = False) -> Lap | None:
        """Return what was measured, or ``None`` if a mark is missing; *counting*: ignore the guest's clock."""
        begin, end = self._find(BEGIN), self._find(END)
        if begin is None or end is None:
            return None
        seconds, processor = (
            ended - began for began, ended in zip(self._arrived[BEGIN], self._arrived[END], strict=True)
        )
        if not counting:
            seconds = float(end[1]) - float(begin[1])
        return Lap(seconds, processor, self.getvalue()[begin.end() : end.start()].strip())

    def _find(self, mark: str) -> re.Match[str] | None:
        return re.search(rf"^{mark} ([\d.]+)\n", self.getvalue(), re.MULTILINE)


def marked(command: str) -> str:
    """Return a shell command, for bash, that prints the marks around what *command* does."""
    return f"echo {BEGIN} $EPOCHREALTIME && {command} && echo {END} $EPOCHREALTIME"


def timed(node: Node, command: str, *, timeout: float) -> Lap:
    """Run a command that prints `BEGIN` and `END`, each with the time, and measure what is in between.

    Raises
    ------
    PidocError
        The command fails, takes longer than *timeout* seconds, or does not print them; or its QEMU was not found.
    NodeDied
        The node ended before the command did.
    """
    from invoke.exceptions import CommandTimedOut

    qemu = _qemu(node)
    marks = Marks(lambda: (time.monotonic(), processor_time(qemu)))
    try:
        done = node.run(command, hide="stderr", out_stream=marks, timeout=timeout, warn=True)
    except CommandTimedOut as error:
        raise PidocError(f"A measurement on {node.name} took longer than {timeout:g} s: {command}") from error
    if not done.ok:
        raise PidocError(f"A measurement failed on {node.name}: {command}", evidence=done.stdout + done.stderr)
    lap = marks.lap(counting=bool(node.machine.icount))
    if lap is None:
        raise PidocError(
            f"A measurement on {node.name} did not print when it began and ended: {command}", evidence=marks.getvalue()
        )
    return lap


def alternately(lap: Callable[[T], Lap], one: T, other: T, *, runs: int) -> tuple[tuple[Lap, ...], tuple[Lap, ...]]:
    """Measure two things *runs* times each, one after the other; each run begins with the one that ended the last."""
    laps: tuple[list[Lap], list[Lap]] = ([], [])
    for run in range(runs):
        if run % 2 == 0:
            laps[0].append(lap(one))
            laps[1].append(lap(other))
        else:
            laps[1].append(lap(other))
            laps[0].append(lap(one))
    return tuple(laps[0]), tuple(laps[1])


def size_for(measure: Callable[[int], float], most: int) -> int:
    """Return a size whose measurement takes at least `ENOUGH` seconds, if *most* does not come first; it was measured.

    Parameters
    ----------
    measure
        Returns how many seconds a size takes.
    most
        The largest size that is allowed.
    """
    size = 1
    while (seconds := min(measure(size), measure(size))) < ENOUGH and size < most:  # one may have had to wait
        # Half as much again as seems to be enough: a small one is slower than a large one.
        size = min(most, size * 16, max(size + 1, int(1.5 * size * ENOUGH / max(seconds, 0.001))))
    return size


def processor_time(process: int) -> float:
    """Return the seconds that a process has run on the processors, all its threads, to the nanosecond.

    Raises
    ------
    OSError
        There is no such process.
    """
    return time.clock_gettime(~process << 3 | 2)  # clock_getcpuclockid(3): /proc counts whole ticks of 10 ms


def _qemu(node: Node) -> int:
    """Return the host's process id of a node's QEMU, also if it runs in a container.

    The container's first process, which only waits for QEMU, has the same arguments: so the program's name counts too.
    """
    name = f"{node.directory.parent.name}/{node.name}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone, or no process
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if (
                (entry / "comm").read_bytes().startswith(b"qemu-system")
                and b"-name" in words
                and words[words.index(b"-name") + 1] == name
            ):
                return int(entry.name)
    raise PidocError(
        f"The QEMU process of {node.name} was not found on this host.", tip="use a Docker daemon that runs on this host"
    )
