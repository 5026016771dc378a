"""The subject ``rates`` with real nodes."""

from __future__ import annotations

import json

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.bench import stopwatch
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.values.progress import Progress
from tests.performance import rates


@pytest.mark.qemu
def test_each_way_is_measured_in_a_fork_and_in_a_plain_node(
    settings: Settings, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How fast they are, the host's other work decides."""
    monkeypatch.setattr(stopwatch, "ENOUGH", 0.5)  # less, and both of a lap's marks can arrive together

    report = rates.rates(settings, runs=1, progress=Progress(), names=("pi3-virt",))

    assert report.ok, str(report)
    assert [each.way for each in report.rates] == list(rates.WAYS)
    assert all(lap.seconds > 0 and lap.processor > 0 for each in report.rates for lap in (*each.plain, *each.node))
    assert [len(each.plain) for each in report.rates] == [len(each.node) for each in report.rates] == [1, 1, 1, 1]
    json.dumps(report.to_dict())
