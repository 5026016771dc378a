"""What can be measured on which model, and limits as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc import Settings
from pytest_pidoc.errors import SettingsError
from pytest_pidoc.machines import MODELS
from pytest_pidoc.pi_benchmark.metrics import METRICS, limits, metric, prepare


@pytest.mark.parametrize("name", ["instructions", "virtual_time", "guest_time"])
def test_clock_counts_for_what_is_to_repeat(name: str) -> None:
    """A node that nobody gave a clock gets one that counts instructions."""
    assert prepare(Settings().spec(), [name]).mips == 1000


def test_time_of_this_machine_needs_no_other_clock() -> None:
    """The node is started as it always is, and shared with the tests that measure nothing."""
    spec = Settings().spec()

    assert prepare(spec, ["wall_time"]) == spec


def test_clock_that_was_chosen_stays() -> None:
    """The user's rate is kept, and so is the board's own."""
    assert prepare(Settings().spec({"mips": 250}), ["instructions"]).mips == 250
    assert prepare(Settings().spec({"model": "pi1"}), ["guest_time"]).mips is None


@pytest.mark.parametrize("model", sorted(name for name, row in MODELS.items() if not row.has_counter))
def test_model_without_a_counter_is_refused(model: str) -> None:
    """The message names models that have one, and the metric that this one has."""
    with pytest.raises(SettingsError, match=rf"{model} cannot count a program's instructions") as caught:
        prepare(Settings().spec({"model": model}), ["guest_time", "instructions"])

    assert "pi3-virt" in caught.value.tip
    assert "guest_time" in caught.value.tip


def test_unknown_metric_is_refused() -> None:
    """The tip lists those that there are."""
    with pytest.raises(SettingsError, match="There is no metric 'cycles'") as caught:
        metric("cycles")

    assert all(name in caught.value.tip for name in METRICS)


def test_limits_are_shares() -> None:
    """Several are parted by commas."""
    assert limits("instructions:2%, wall_time : 50.5 %") == {"instructions": 0.02, "wall_time": 0.505}


@pytest.mark.parametrize("text", ["", ",", "2%", "instructions", "instructions:2", "instructions:-2%", "cycles:2%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    """It is not taken for none."""
    with pytest.raises(SettingsError):
        limits(text)


@given(st.text())
def test_no_text_raises_another_error(text: str) -> None:
    """Whatever stands there is a limit or a usage error."""
    try:
        found = limits(text)
    except SettingsError:
        return
    assert all(name in METRICS and limit >= 0 for name, limit in found.items())
