"""The reports of ``pidoc bench``: what is made of times that were measured."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from pytest_pidoc.bench import spread
from pytest_pidoc.bench.models import Model, ModelsReport, cpu
from pytest_pidoc.bench.start import Start, StartReport
from pytest_pidoc.vm.bringup import Timings


def a_start(kind: str, ready: float) -> Start:
    restored = 0.5 if kind == "warm" else None
    nodes = (Timings(0.1, ready - 1, ready - 0.5, restored, kind), Timings(0.1, ready - 0.5, ready, restored, kind))
    return Start(kind, nodes, ready + 0.1, (80_000_000, 90_000_000), 0.2)


START = StartReport("2 CPUs", "local", "QEMU 10.0.2", "pi3-virt", (a_start("cold", 20.0), a_start("warm", 2.0)))

MODELS = ModelsReport(
    host="2 CPUs",
    engine="local",
    qemu="QEMU 10.0.2",
    models=(
        Model(
            "pi3-virt",
            uname="aarch64",
            cpu="part 0xd03",
            board="linux,dummy-virt",
            cold=Timings(0.1, 4.25, 8.0),
            warm=(Timings(0.1, 0.5, 1.0, 0.3, "warm"), Timings(0.1, 0.7, 1.5, 0.3, "warm")),
            memory=(70_000_000, 80_000_000),
        ),
        Model("pi4", obstacle="The model pi4 requires QEMU 9.0 or newer, but engine local has QEMU 7.2.22."),
    ),
)


def test_warm_starts_of_other_sizes_are_rows_of_their_own() -> None:
    """The ratio is that of clusters of one size."""
    eight = a_start("warm", 5.0)
    report = dataclasses.replace(START, starts=(*START.starts, dataclasses.replace(eight, nodes=eight.nodes * 4)))

    assert report.groups == (("cold", 2), ("warm", 2), ("warm", 8))
    assert report.ratios() == {"cold / warm": 10.0}
    assert "\nwarm   8      " in str(report)


def test_spread_is_median_least_and_most() -> None:
    """A column shows the median, and how far the runs lie apart."""
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"


def test_start_report_takes_the_slowest_node() -> None:
    """A cluster is as fast as its last node."""
    assert START.ratios() == {"cold / warm": 10.0}
    assert "20.00 (20.00 to 20.00)" in str(START)


def test_start_report_has_the_untuned_guest_if_it_was_started() -> None:
    """Each other kind of start is compared with the warm one, in a row of its own."""
    report = replace(START, starts=(a_start("untuned", 50.0), *START.starts))

    assert report.ratios() == {"untuned / warm": 25.0, "cold / warm": 10.0}
    assert "untuned  2      0.10" in str(report)
    assert "untuned / warm: 25.0, cold / warm: 10.0" in str(report)


def test_start_report_shows_private_memory() -> None:
    """The memory of every node counts, in megabytes."""
    assert "85.00 (80.00 to 90.00)" in str(START)


def test_models_report_has_a_row_per_model() -> None:
    """What a model says that it is, its cold start, and the median of its warm ones."""
    text = str(MODELS)

    assert "pi3-virt  aarch64   part 0xd03  linux,dummy-virt  4.25           8.00" in text
    assert "0.60 (0.50 to 0.70)" in text
    assert "1.25 (1.00 to 1.50)" in text
    assert "75.00 (70.00 to 80.00)" in text


def test_models_report_says_why_one_was_not_measured() -> None:
    """A board that this QEMU does not have is no failure; one that does not start is."""
    broken = Model("pi3", obstacle="pi-1 died.", failed=True)

    assert "pi4: The model pi4 requires QEMU 9.0" in str(MODELS)
    assert MODELS.ok
    assert not replace(MODELS, models=(*MODELS.models, broken)).ok


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("processor\t: 0\nBogoMIPS\t: 125.00\nCPU part\t: 0xd03\n\nprocessor\t: 1\nCPU part\t: 0xd08\n", "part 0xd03"),
        (
            "processor\t: 0\nmodel name\t: ARMv7 Processor rev 5 (v7l)\nCPU part\t: 0xc07\n\nHardware\t: BCM2835\n",
            "ARMv7 Processor rev 5 (v7l), part 0xc07, BCM2835",
        ),
        ("", ""),
    ],
    ids=["64 bit", "32 bit", "nothing"],
)
def test_cpu_is_what_cpuinfo_tells(text: str, said: str) -> None:
    """A 64-bit kernel tells a number, a 32-bit one names too."""
    assert cpu(text) == said


@pytest.mark.parametrize("report", [START, MODELS], ids=["start", "models"])
def test_reports_are_json(report: StartReport | ModelsReport) -> None:
    """For scripts: every single run."""
    data = json.loads(json.dumps(report.to_dict()))

    assert data["engine"] == "local"
    assert data["qemu"] == "QEMU 10.0.2"
    assert data["ok"] is True
