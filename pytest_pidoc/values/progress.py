"""Progress: reports of the current step of a long job, for a terminal or for anything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress", "TerminalProgress"]


class Progress:
    """Receives each step of a long job, and ignores it; a base class for those that show it."""

    def step(self, text: str) -> None:
        """Receive a new step; *text* describes it, such as ``downloading packages``."""


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
