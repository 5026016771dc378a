"""What is measured between two marks."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from pytest_pidoc.bench.stopwatch import BEGIN, END, ENOUGH, Lap, Marks, alternately, processor_time, size_for


def a_clock(*shown: tuple[float, float]):  # type: ignore[no-untyped-def]
    times = iter(shown)
    return lambda: next(times)


def test_a_lap_is_what_lies_between_the_marks() -> None:
    """What a command prints before it begins, and after it has ended, does not belong to it."""
    marks = Marks(a_clock((10.0, 1.0), (12.5, 3.0)))
    for piece in ("warming up\n", f"{BEGIN} 100.25\n", "copied\n", f"{END} 102.5\n", "bye\n"):
        marks.write(piece)

    assert marks.lap() == Lap(2.25, 2.0, "copied")


def test_a_clock_that_counts_instructions_is_not_asked() -> None:
    """The time is then that between the marks' arrivals."""
    marks = Marks(a_clock((10.0, 1.0), (12.5, 3.0)))
    for piece in (f"{BEGIN} 100.25\n", f"{END} 100.5\n"):
        marks.write(piece)

    assert marks.lap(counting=True) == Lap(2.5, 2.0)


def test_marks_that_arrive_together_are_not_at_one_time() -> None:
    """On a busy machine nobody reads for a while."""
    marks = Marks(lambda: (1.0, 1.0))
    marks.write(f"{BEGIN} 100.25\n{END} 102.25\n")

    assert marks.lap() == Lap(2.0, 0.0)


def test_a_mark_may_come_in_pieces() -> None:
    """A mark has come when its line is complete."""
    marks = Marks(a_clock((1.0, 0.0), (2.0, 0.0)))
    for piece in (BEGIN[:4], f"{BEGIN[4:]} 1.", f"5\nsaid\n{END} 2.5", "\n"):
        marks.write(piece)

    assert marks.lap() == Lap(1.0, 0.0, "said")


@pytest.mark.parametrize("said", ["", f"{BEGIN} 1\n", f"{BEGIN} 1\n{END} 2", f"{BEGIN}\n{END}\n"])
def test_without_both_marks_there_is_no_lap(said: str) -> None:
    marks = Marks(lambda: (0.0, 0.0))
    marks.write(said)

    assert marks.lap() is None


def test_two_things_are_measured_alternately() -> None:
    """Neither is always the second; the laps of both are in the order in which they were made."""
    order: list[str] = []

    def lap(name: str) -> Lap:
        order.append(name)
        return Lap(float(len(order)), 0.0)

    found = alternately(lap, "one", "other", runs=3)

    assert order == ["one", "other", "other", "one", "one", "other"]
    assert [[each.seconds for each in laps] for laps in found] == [[1.0, 4.0, 5.0], [2.0, 3.0, 6.0]]


@pytest.mark.parametrize("rate", [0.1, 20.0, 100.0])
def test_a_size_is_one_that_takes_long_enough(rate: float) -> None:
    """A slow network and a fast disk are measured for about as long."""
    moved = []

    def measure(size: int) -> float:
        moved.append(size)
        return size / rate

    size = size_for(measure, 512)

    assert ENOUGH <= size / rate <= max(2 * ENOUGH, 1 / rate)
    assert size == moved[-1]


def test_one_slow_measurement_does_not_make_a_size() -> None:
    """The first may have had to wait for something."""
    slow = iter([60.0])

    assert size_for(lambda size: next(slow, size / 20), 512) >= 20 * ENOUGH


def test_a_size_has_an_end() -> None:
    """However fast it is, it must lie on a disk."""
    assert size_for(lambda size: size / 1e6, 512) == 512


def test_processor_time_is_that_of_a_process_alone() -> None:
    """A process that works uses it; one that waits does not, however long."""
    own = os.getpid()
    before, began = processor_time(own), time.process_time()
    while time.process_time() - began < 0.1:
        pass
    worked = processor_time(own) - before

    assert 0.05 <= worked <= 0.5


def test_processor_time_is_finer_than_a_tick() -> None:
    """To move one MiB may take less than the 10 ms in which ``/proc`` counts."""
    began = processor_time(os.getpid())
    while (worked := processor_time(os.getpid()) - began) == 0:
        pass

    assert worked < 0.005


def test_processor_time_of_no_process() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()

    with pytest.raises(OSError, match="Invalid argument"):
        processor_time(ended.pid)
