"""Progress: reports of the current step of a long job, for a terminal or for anything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from pytest_pidoc.values.text import duration

__all__ = ["CopyProgress", "Progress", "TerminalProgress"]

FIRST_REPORT = 2.0  # seconds that a copy can take before it is worth a line
REPORT_EVERY = 10.0


class Progress:
    """Receives each step of a long job, and ignores it; a base class for those that show it."""

    def step(self, text: str) -> None:
        """Receive a new step; *text* describes it, such as ``downloading packages``."""

    def anew(self) -> Progress:
        """Return one for another job, of which each step is shown, with the time since now."""
        return self


class TerminalProgress(Progress):
    """Prints every step as it starts, with the seconds since the first one.

    Parameters
    ----------
    stream
        Where to print, e.g. ``sys.stderr``.
    clock
        The clock, in seconds; tests pass their own.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._start: float | None = None

    def step(self, text: str) -> None:
        """Print *text* after the time: ``[  12.3 s] downloading packages``."""
        now = self._clock()
        if self._start is None:
            self._start = now
        print(f"[{now - self._start:6.1f} s] {text}", file=self._stream, flush=True)

    def anew(self) -> Progress:
        """Return one that writes to the same stream."""
        another = TerminalProgress(self._stream, clock=self._clock)
        another._start = self._clock()
        return another


class CopyProgress:
    """Reports how far a copy is, how fast it goes and how long it still takes: after two seconds, then every ten.

    Parameters
    ----------
    progress
        Receives the reports.
    what
        What is copied, and to where: ``build to pi-1``.
    total
        The number of bytes, if it is known.
    clock
        The clock, in seconds; tests pass their own.
    """

    def __init__(
        self, progress: Progress, what: str, total: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress.anew()
        self._what = what
        self._total = total
        self._clock = clock
        self._start = clock()
        self._next = self._start + FIRST_REPORT
        self._done = 0

    def add(self, size: int) -> None:
        """Count *size* more bytes that were copied."""
        self.at(self._done + size, self._total)

    def at(self, done: int, total: int | None) -> None:
        """Note that *done* bytes of *total* were copied."""
        self._done, self._total = done, total
        now = self._clock()
        if now < self._next:
            return
        self._next = now + REPORT_EVERY
        rate = done / (now - self._start)
        text = f"copying {self._what}: {done / 1e6:.1f}"
        if total:
            text += f" of {total / 1e6:.1f}"
        text += f" MB, {rate / 1e6:.2f} MB/s"
        if total and done:
            text += f", {duration(max(0, total - done) / rate)} left"
        self._progress.step(text)
