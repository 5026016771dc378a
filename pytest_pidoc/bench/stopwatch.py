"""How long something takes in a node: on this machine's clock, and of its processors' time.

A guest's clock is this machine's, unless the machine has ``-icount``: then it counts instructions, and stands still
while others have the processor. Of such a node it is measured when its lines arrive here, which on a busy machine is
some time after they were printed. What others take of the processors is in no way in the time that the node's QEMU uses
of them.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import PidocError
from pytest_pidoc.node import Node

__all__ = ["BEGIN", "END", "Lap", "Marks", "marked", "processor_time", "timed"]

#: The lines that a command prints where what is measured begins and ends: what it needs to start does not count. Each
#: has the time on the guest's clock behind it, in seconds.
BEGIN, END = "pidoc-begin", "pidoc-end"


@dataclass(frozen=True)
class Lap:
    """One measurement.

    Attributes
    ----------
    seconds
        How long it took.
    processor
        Seconds that the node's QEMU ran on this machine's processors meanwhile.
    said
        What the command printed meanwhile.
    """

    seconds: float
    processor: float
    said: str = ""


class Marks(io.StringIO):
    """What a command prints, and what this machine's clocks showed when its marks arrived."""

    def __init__(self, clock: Callable[[], tuple[float, float]]) -> None:
        super().__init__()
        self._clock = clock
        self._arrived: dict[str, tuple[float, float]] = {}

    def write(self, text: str) -> int:
        """Take a piece of what is printed; a mark may come in two pieces."""
        written = super().write(text)
        for mark in (BEGIN, END):
            if mark not in self._arrived and self._find(mark):
                self._arrived[mark] = self._clock()
        return written

    def lap(self, *, counting: bool = False) -> Lap | None:
        """Return what was measured, or ``None`` if a mark has not come; *counting*: the guest's clock is none."""
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
        It fails, has not ended in *timeout* seconds, or does not print them; or its QEMU cannot be looked at.
    NodeDied
        The node ended before the command did.
    """
    from invoke.exceptions import CommandTimedOut

    qemu = _qemu(node)
    marks = Marks(lambda: (time.monotonic(), processor_time(qemu)))
    try:
        done = node.run(command, hide="stderr", out_stream=marks, timeout=timeout, warn=True)
    except CommandTimedOut as error:
        raise PidocError(f"{node.name} has not ended a measurement in {timeout:g} s: {command}") from error
    if not done.ok:
        raise PidocError(f"{node.name} could not be measured: {command}", evidence=done.stdout + done.stderr)
    lap = marks.lap(counting=bool(node.machine.icount))
    if lap is None:
        raise PidocError(f"{node.name} has not told when it began and ended.", evidence=marks.getvalue())
    return lap


def processor_time(process: int) -> float:
    """Return the seconds that a process has run on the processors, all its threads, to the nanosecond.

    Raises
    ------
    OSError
        There is no such process.
    """
    return time.clock_gettime(~process << 3 | 2)  # clock_getcpuclockid(3): /proc counts whole ticks of 10 ms


def _qemu(node: Node) -> int:
    """Return the process id of a node's QEMU, as this machine counts them if it runs in a container, too.

    Its arguments are also those of the container's first process, which does nothing but wait for it.
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
    raise PidocError(f"No process of this machine is the QEMU of {node.name}.", tip="no Docker daemon of another one")
