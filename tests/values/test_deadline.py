"""Deadlines, on a clock of the test's own."""

from __future__ import annotations

import time

import pytest

from pytest_pidoc.values.deadline import Deadline


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_begins_when_it_is_made(clock: Clock) -> None:
    """A new deadline has all of its time left."""
    deadline = Deadline(5, clock=clock, sleep=clock.sleep)

    assert (deadline.elapsed, deadline.remaining, deadline.expired) == (0, 5, False)


def test_time_runs(clock: Clock) -> None:
    """Elapsed and remaining add up to the timeout."""
    deadline = Deadline(5, clock=clock, sleep=clock.sleep)
    clock.sleep(2)

    assert (deadline.elapsed, deadline.remaining) == (2, 3)


def test_expires_at_its_end(clock: Clock) -> None:
    """The time is over when the timeout has passed, not only after it."""
    deadline = Deadline(5, clock=clock, sleep=clock.sleep)
    clock.sleep(5)

    assert deadline.expired


def test_remaining_is_never_negative(clock: Clock) -> None:
    """What is left can be given to a system call as its timeout."""
    deadline = Deadline(5, clock=clock, sleep=clock.sleep)
    clock.sleep(60)

    assert deadline.remaining == 0


def test_no_time_is_expired_at_once(clock: Clock) -> None:
    """A timeout of 0 allows one look and no wait."""
    assert Deadline(0, clock=clock, sleep=clock.sleep).expired


def test_pause_takes_one_interval(clock: Clock) -> None:
    """A pause is one interval long."""
    deadline = Deadline(5, interval=0.5, clock=clock, sleep=clock.sleep)
    deadline.pause()

    assert deadline.elapsed == 0.5


def test_pause_does_not_pass_the_end(clock: Clock) -> None:
    """The last pause ends with the deadline."""
    deadline = Deadline(0.25, interval=0.5, clock=clock, sleep=clock.sleep)
    deadline.pause()

    assert deadline.elapsed == 0.25
    assert deadline.expired


def test_uses_the_monotonic_clock_by_default() -> None:
    """A change of the wall clock does not change a wait."""
    deadline = Deadline(60)

    assert deadline.clock is time.monotonic
    assert 0 <= deadline.elapsed < 60
