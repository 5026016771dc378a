"""Options of benchmarks: limits as they are written, and what a marker's arguments add to what was chosen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.pi_benchmark.options import METRIC_NAMES, OPTIONS, SIGNATURE, asked_measurement, limits
from pytest_pidoc.values.options import Chosen, choose


def test_limits_are_shares() -> None:
    """Several are parted by commas."""
    assert limits("instructions:2%, wall_time : 50.5 %") == {"instructions": 0.02, "wall_time": 0.505}


@pytest.mark.parametrize("text", ["", ",", "2%", "instructions", "instructions:2", "instructions:-2%", "cycles:2%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    """It is not taken for no limit, and the error shows how one is written."""
    with pytest.raises(ValueError, match="METRIC:N%, such as instructions:2%, with one of the metrics instructions"):
        limits(text)


@given(st.text())
def test_no_text_raises_another_error(text: str) -> None:
    """Whatever stands there is a limit or a bad value."""
    try:
        found = limits(text)
    except ValueError:
        return
    assert all(name in METRIC_NAMES and limit >= 0 for name, limit in found.items())


def test_limits_are_shown_as_they_are_written() -> None:
    """The header of a run shows what one could type."""
    assert str(limits("instructions : 2.5 %,wall_time:50%")) == "instructions:2.5%,wall_time:50%"


def test_defaults() -> None:
    """Without a choice, instructions are counted three times, and held against nothing."""
    assert asked_measurement(Chosen({}, {}), {}) == ("instructions", 3, {})


def test_marker_is_stronger_than_what_was_chosen() -> None:
    """What a test asks for is what it gets; ``None`` leaves the choice to the run, and ``""`` takes it away."""
    given = {"benchmark_metric": "wall_time", "benchmark_rounds": "5", "benchmark_fail": "wall_time:50%"}
    chosen = choose(OPTIONS, given, {}, {})

    assert asked_measurement(chosen, {}) == ("wall_time", 5, {"wall_time": 0.5})
    assert asked_measurement(chosen, {"metric": "guest_time", "rounds": None, "fail": ""}) == ("guest_time", 5, {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("metric", "cycles", "metric of the marker pidoc_benchmark: 'cycles' is not one of instructions, "),
        ("rounds", 0, "rounds of the marker pidoc_benchmark: 0 is not a whole number from 1 to 1000"),
        ("fail", "2", "fail of the marker pidoc_benchmark: '2' is not METRIC:N%, such as instructions:2%"),
        ("rouns", 3, "The marker pidoc_benchmark has no argument 'rouns'"),
        ("file", "x.json", "The marker pidoc_benchmark has no argument 'file'"),
    ],
)
def test_bad_argument_of_the_marker(name: str, value: object, message: str) -> None:
    """It is named with what would be right, and the tip is the marker's signature."""
    with pytest.raises(SettingsError) as caught:
        asked_measurement(Chosen({}, {}), {name: value})

    assert caught.value.what.startswith(message)
    assert caught.value.tip == SIGNATURE
