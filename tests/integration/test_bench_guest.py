"""``pidoc bench guest`` with real nodes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.bench import stopwatch
from pytest_pidoc.bench.guest import PRIME, guest
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.values.progress import Progress


@pytest.mark.parametrize("engine", [pytest.param("local", marks=pytest.mark.qemu)])
@pytest.mark.usefixtures("limits")
def test_all_is_measured_with_a_processor_and_with_half_of_one(
    engine: str, settings: Settings, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but sysbench's events once, whatever it takes; how fast it is, the host's other work decides."""
    monkeypatch.setattr(stopwatch, "ENOUGH", 0.0)

    report = guest(replace(settings, engine=engine), runs=1, progress=Progress(), names=("pi3-virt",), events=200)

    assert report.ok, str(report)
    assert report.engine == engine
    assert report.sysbench.startswith("sysbench 1.")
    whats = [PRIME, "bash loop", "memory write", "disk write", "disk read", "network"]
    assert [each.what for each in report.measured] == whats
    assert all(value > 0 for each in report.measured for values in each.values for value in values)
    (prime,) = report.primes
    assert 0 < prime.used[1] < 0.7, "half a processor, and what it had saved up"
    json.dumps(report.to_dict())
