"""Deadlines: every wait is bounded, and says how long it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """A point in time that a wait must not pass.

    Parameters
    ----------
    timeout
        Seconds from now.
    interval
        Seconds between two looks.
    clock, sleep
        The clock; tests bring their own.
    """

    timeout: float
    interval: float = 0.02
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    start: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", self.clock())

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return self.clock() - self.start

    @property
    def remaining(self) -> float:
        """Seconds that are left, never below 0."""
        return max(0.0, self.timeout - self.elapsed)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.remaining <= 0

    def pause(self) -> None:
        """Sleep for one interval, but not past the end."""
        self.sleep(min(self.interval, self.remaining))
