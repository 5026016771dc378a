"""The reports of ``pidoc bench``: what is made of times that were measured."""

from __future__ import annotations

import json

import pytest

from pytest_pidoc.bench import spread
from pytest_pidoc.bench.boot import BootReport, BootRow
from pytest_pidoc.bench.start import Start, StartReport
from pytest_pidoc.node import Timings

BOOT = BootReport(
    host="2 CPUs",
    engine="local",
    qemu="QEMU 10.0.2",
    rows=(
        BootRow("untuned Debian", 1, (30.0, 34.0, 32.0), (33.0, 37.0, 35.0), (0.1, 0.1, 0.1)),
        BootRow("debian:bookworm", 1, (8.0, 9.0, 7.0), (9.0, 10.0, 8.0), (0.1, 0.1, 0.1)),
        BootRow("debian:bookworm", 3, (15.0, 16.0, 17.0), (17.0, 18.0, 19.0), (0.2, 0.2, 0.2)),
    ),
)


def a_start(kind: str, ready: float) -> Start:
    restored = 0.5 if kind == "warm" else None
    nodes = (Timings(0.1, ready - 1, ready - 0.5, restored, kind), Timings(0.1, ready - 0.5, ready, restored, kind))
    return Start(kind, nodes, ready + 0.1, (80_000_000, 90_000_000), 0.2)


START = StartReport("2 CPUs", "local", "pi3-virt", "QEMU 10.0.2", (a_start("cold", 20.0), a_start("warm", 2.0)))


def test_spread_is_median_least_and_most() -> None:
    """A column shows the median, and how far the runs lie apart."""
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"


def test_boot_ratios_are_of_medians() -> None:
    """The tuned guest is compared with the untuned one, and three nodes with one."""
    assert BOOT.ratios() == {"banner, tuned / untuned": 0.25, "ready, three / one": 2.0}


def test_boot_report_is_a_table() -> None:
    """For people: a row per kind, the machine, and the ratios."""
    text = str(BOOT)

    assert "untuned Debian" in text
    assert "8.00 (7.00 to 9.00)" in text
    assert "2 CPUs; engine local, QEMU 10.0.2" in text
    assert "ready, three / one 2.00" in text


def test_start_report_takes_the_slowest_node() -> None:
    """A cluster is as fast as its last node."""
    assert START.ratio() == 10.0
    assert "20.00 (20.00 to 20.00)" in str(START)


def test_start_report_shows_private_memory() -> None:
    """The memory of every node counts, in megabytes."""
    assert "85.00 (80.00 to 90.00)" in str(START)


@pytest.mark.parametrize("report", [BOOT, START], ids=["boot", "start"])
def test_reports_are_json(report: BootReport | StartReport) -> None:
    """For scripts: every single run."""
    data = json.loads(json.dumps(report.to_dict()))

    assert data["engine"] == "local"
    assert data["qemu"] == "QEMU 10.0.2"
