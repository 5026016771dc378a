"""The report of ``power-cuts``: which records are lost, and which cuts are bad."""

from __future__ import annotations

from dataclasses import replace

from tests.performance.power_cuts import CutReport, PowerCut, lost


def test_lost_records_are_found() -> None:
    """Those that are missing, damaged, or have no file of their own; one that was never reported may be half there."""
    intact = b"".join(b"%015d\n" % number for number in range(40))
    files = ["record-0", "record-16", "record-32"]

    assert lost(range(40), intact + b"0000", files) == ()
    assert lost(range(40), intact[: 38 * 16], files) == (38, 39)
    assert lost(range(40), intact[:160] + bytes(16) + intact[176:], files) == (10,)
    assert lost(range(40), intact, files[:2]) == (32,)
    assert lost(range(3), b"", ()) == (0, 1, 2)


def test_report_of_power_cuts_names_the_bad_ones() -> None:
    cuts = (PowerCut(0.5, 100, on=6.0), PowerCut(1.5, 50, (48, 49), on=7.0), PowerCut(1.0, 9, complaints="no root"))
    report = CutReport("2 CPUs", "local", "QEMU 10.0.2", "pi3-virt", cuts)

    assert not report.ok
    assert not report.to_dict()["ok"]
    assert replace(report, cuts=cuts[:1]).ok
    assert "cut 2: 2 of 50 records lost [48, 49]" in str(report)
    assert "cut 3: 0 of 9 records lost [] no root" in str(report)
    assert "\n3     2    159             2     1.00 (0.50 to 1.50)" in str(report)
