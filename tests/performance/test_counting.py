"""The report of ``counting``: what is made of figures that were measured."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.performance.counting import Cost, CountingReport

COSTS = (
    Cost("wall_time", "the host's", (1.0, 1.2, 0.9)),
    Cost("instructions", "counts", (1.5, 1.4, 1.6)),
)
REPORT = CountingReport(
    host="2 CPUs",
    engine="local",
    qemu="QEMU 10.0.2",
    model="pi3-virt",
    metric="instructions",
    unchanged={"instructions": (1000.0, 1001.0, 1000.0), "wall_time": (1.0, 2.0, 1.5)},
    caught=2,
    slowed=2,
    alarms=0,
    costs=COSTS,
)


def test_report_shows_spreads_and_ratios() -> None:
    """Of each metric the spread, and what measuring costs against not measuring."""
    text = str(REPORT)

    assert "instructions  1,000     0.100 %" in text
    assert "wall_time     1.5000 s  66.667 %" in text
    assert "1 % more work noticed 2 times of 2, 0 false alarms in 3 unchanged runs" in text
    assert text.splitlines()[-3].endswith("1.50")
    assert json.loads(json.dumps(REPORT.to_dict()))["spreads"]["instructions"] == 0.001


def test_report_fails_if_something_was_missed_or_imagined() -> None:
    """So a script notices."""
    assert REPORT.ok
    assert not replace(REPORT, caught=1).ok
    assert not replace(REPORT, alarms=1).ok
    assert not replace(REPORT, unchanged={"instructions": (1000.0, 1003.0)}).ok
