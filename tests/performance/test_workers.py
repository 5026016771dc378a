"""The report of ``workers``: what is made of who had which node when."""

from __future__ import annotations

import pytest

from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from tests.performance import workers
from tests.performance.workers import Use, WorkersReport, WorkersRow, overlaps


def test_overlaps() -> None:
    """Two tests on one node at one time count, be it for a moment; one after the other they do not."""
    first, touching, within = (Use("c-1", "pi-1", *times) for times in ((0, 2), (2, 4), (1.9, 1.95)))
    assert overlaps([first, touching]) == 0
    assert overlaps([first, touching, within]) == 1
    assert overlaps([first, Use("c-1", "pi-2", 0, 2), Use("c-2", "pi-1", 0, 2)]) == 0


def test_ratio() -> None:
    """It is that of the medians, and the table shows it beside the seconds."""
    report = WorkersReport(
        "2 CPUs", "local", "", "pi3-virt", (WorkersRow("a node each", (80.0, 90.0), (30.0, 38.0), 0),)
    )
    assert report.rows[0].ratio == pytest.approx(0.4)
    assert "85.00 (80.00 to 90.00)  34.00 (30.00 to 38.00)  0.40   0" in str(report)
    assert report.to_dict()["ratios"] == [pytest.approx(0.4)]


def test_tests_that_fail_are_no_measurement(no_settings: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pytest said is shown: here that the engine is not there."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(workers, "TESTS", 1)
    with pytest.raises(PidocError, match=r"The tests that only wait have failed\.\n[^$]*qemu"):
        workers.workers(Settings.load({"engine": "local", "require": True}), runs=1, progress=Progress())


def test_without_xdist(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by its name."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="needs pytest-xdist"):
        workers.workers(Settings(), runs=1, progress=Progress())
