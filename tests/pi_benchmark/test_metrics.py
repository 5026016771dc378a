"""What can be measured on which model."""

from __future__ import annotations

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.errors import SettingsError
from pytest_pidoc.machines import MODELS
from pytest_pidoc.pi_benchmark.metrics import METRICS, metric, spec_for
from pytest_pidoc.pi_benchmark.options import METRIC_NAMES


@pytest.mark.parametrize("name", ["instructions", "virtual_time", "guest_time"])
def test_clock_counts_for_what_is_to_repeat(name: str) -> None:
    """A node that nobody gave a clock gets one that counts instructions."""
    assert spec_for(Settings().spec(), [name]).mips == 1000


def test_time_of_this_machine_needs_no_other_clock() -> None:
    """The node is started as it always is, and shared with the tests that measure nothing."""
    spec = Settings().spec()

    assert spec_for(spec, ["wall_time"]) == spec


def test_clock_that_was_chosen_stays() -> None:
    """The user's rate is kept, and so is the board's own."""
    assert spec_for(Settings().spec({"mips": 250}), ["instructions"]).mips == 250
    assert spec_for(Settings().spec({"model": "pi1"}), ["guest_time"]).mips is None


@pytest.mark.parametrize("model", sorted(name for name, row in MODELS.items() if not row.has_counter))
def test_model_without_a_counter_is_refused(model: str) -> None:
    """The message names models that have one, and the metric that this one has."""
    with pytest.raises(SettingsError, match=rf"{model} cannot count a program's instructions") as caught:
        spec_for(Settings().spec({"model": model}), ["guest_time", "instructions"])

    assert "pi3-virt" in caught.value.tip
    assert "guest_time" in caught.value.tip


def test_unknown_metric_is_refused() -> None:
    """The tip lists those that there are."""
    with pytest.raises(SettingsError, match="There is no metric 'cycles'") as caught:
        metric("cycles")

    assert all(name in caught.value.tip for name in METRICS)


def test_options_name_the_metrics() -> None:
    """The names that options and the marker take are those that can be measured."""
    assert tuple(METRICS) == METRIC_NAMES
