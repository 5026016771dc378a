"""The subject ``lan`` with real nodes."""

from __future__ import annotations

import json

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.values.progress import Progress
from tests.performance import lan


@pytest.mark.qemu
def test_everything_is_measured(settings: Settings, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast it is, the host's other work decides; what faults do, it does not."""
    qemu = LocalEngine().qemu_version("qemu-system-aarch64")
    if qemu.numbers < lan.RECONNECTS:
        pytest.skip(f"{qemu} is too old")
    monkeypatch.setattr(lan, "PARTITIONS", 2)
    monkeypatch.setattr(lan, "TRANSFER", 2_000_000)

    report = lan.lan(settings, runs=1, progress=Progress())

    assert report.crossed == (0, 20)
    assert report.answered == (10, 10)
    assert len(report.healed) == 2
    assert 0.15 < report.delay < 0.3
    assert 0.05 < report.lost < 0.3
    assert [len(times) for times in report.ready.values()] == [1, 1]
    assert report.carried[0] > 0
    assert report.plain[0] > 0
    assert json.loads(json.dumps(report.to_dict()))["ratio"] == report.ratio
