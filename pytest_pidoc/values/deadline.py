"""Deadlines: every wait has a limit, and reports how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.values.checks import MOST_SECONDS, is_seconds, shown

__all__ = ["Deadline", "deadline_of"]


@dataclass(frozen=True)
class Deadline:
    """A point in time that a wait must not pass.

    Parameters
    ----------
    timeout
        Seconds from now.
    interval
        Seconds between two checks.
    clock, sleep
        The clock, in seconds; tests pass their own.
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


def deadline_of(timeout: object, interval: float = 0.02) -> Deadline:
    """Return the deadline of a wait with the user's *timeout* in seconds.

    Raises
    ------
    SettingsError
        *timeout* is not a number of seconds above 0 and at most a day.
    """
    if not is_seconds(timeout):
        raise SettingsError(
            f"timeout must be a number of seconds above 0 and at most {MOST_SECONDS:.0f}, not {shown(timeout)}.",
            tip="set timeout to a number such as 60",
        )
    return Deadline(timeout, interval=interval)
