"""The reports of ``pidoc bench``: what is made of times that were measured."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support import child, eventually

from pytest_pidoc.bench import spread
from pytest_pidoc.bench.boot import BootReport, BootRow
from pytest_pidoc.bench.models import Model, ModelsReport, cpu
from pytest_pidoc.bench.soak import Failure, SoakReport, Traces
from pytest_pidoc.bench.start import Start, StartReport
from pytest_pidoc.host import processes, records
from pytest_pidoc.vm.bringup import Timings

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

SOAK = SoakReport(
    host="2 CPUs",
    engine="local",
    model="pi3-virt",
    qemu="QEMU 10.0.2",
    nodes=1,
    starts=40,
    ready=(1.0, 2.0, 3.0, 4.0, *[5.0] * 32, 7.0, 9.0, 8.0, 6.0),
    cold=0,
    failures=(),
    left=Traces().since(Traces()),
)

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
        Model("pi4", obstacle="The model pi4 needs QEMU 9.0 or newer, and the engine local has QEMU 7.2.22."),
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


def test_soak_compares_the_first_tenth_with_the_last() -> None:
    """Drift is told by medians: one slow start is none."""
    assert SOAK.drift() == (2.5, 7.5)
    assert "40      0       0         2.50           7.50          9.00 " in str(SOAK)


def test_soak_of_few_starts_compares_one_with_one() -> None:
    """A tenth is at least one start."""
    assert replace(SOAK, ready=(1.0, 5.0, 2.0)).drift() == (1.0, 2.0)


def test_soak_in_which_nothing_started_has_no_times() -> None:
    """If all failed, the table says that and has no times."""
    none = replace(SOAK, starts=1, ready=(), failures=(Failure(1, "NodeDied: pi-1 died."),))

    assert none.drift() is None
    assert "1       1       0         -              -             -" in str(none)


def test_soak_is_ok_if_nothing_is_to_be_said() -> None:
    """All went through, all were forked, nothing is left."""
    assert SOAK.ok


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"failures": (Failure(7, "NodeDied: pi-1 died."),)}, "start 7 failed: NodeDied: pi-1 died."),
        ({"cold": 3}, "40      0       3 "),
        ({"left": Traces(descriptors=frozenset({"9 -> socket:[4]"})).since(Traces())}, "left of descriptors: 9 -> soc"),
    ],
    ids=["failed", "cold", "left"],
)
def test_soak_says_what_it_found(found: dict[str, object], said: str) -> None:
    """A failure, a boot in place of a fork, and what was left behind each spoil it, and are named."""
    report = replace(SOAK, **found)  # type: ignore[arg-type]

    assert not report.ok
    assert said in str(report)


def test_traces_are_what_was_not_there_before() -> None:
    """What somebody else has had all the time does not count, nor does what is gone."""
    before = Traces(processes=frozenset({"1 sh", "2 qemu"}), containers=frozenset({"a"}))
    now = Traces(processes=frozenset({"3 qemu", "1 sh"}), containers=frozenset({"a"}))

    assert now.since(before) == {"processes": ["3 qemu"], "descriptors": [], "directories": [], "containers": []}


def test_traces_of_a_child_that_nobody_waited_for(clusters: Path, no_docker: str) -> None:
    """A process that has ended is left behind until somebody waits for it."""
    before = Traces.now()
    with child() as running:
        os.kill(running.pid, signal.SIGKILL)
        assert eventually(lambda: processes.identify(running.pid) is None)

        (left,) = Traces.now().since(before)["processes"]
        assert left.startswith(f"{running.pid} ")
    assert Traces.now().since(before)["processes"] == []


def test_traces_of_an_open_file(clusters: Path, no_docker: str, tmp_path: Path) -> None:
    """A file that stays open is named; looking leaves none open itself."""
    before = Traces.now()
    with (tmp_path / "open").open("w") as stream:
        assert Traces.now().since(before)["descriptors"] == [f"{stream.fileno()} -> {tmp_path / 'open'}"]
    assert Traces.now() == before


def test_traces_of_a_cluster(clusters: Path, no_docker: str) -> None:
    """A directory that is this process's, or nobody knows whose, is a trace; that of another process is not."""
    before = Traces.now()
    own, unknown, foreign, kept = (records.new_directory() for _ in range(4))
    with child() as other:
        for directory, owner in (
            (own, processes.identify(os.getpid())),
            (foreign, processes.identify(other.pid)),
            (kept, None),
        ):
            records.write(directory, {"owner": owner, "engine": "local"})

        assert Traces.now().since(before)["directories"] == sorted([str(own), str(unknown)])


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

    assert "pi4: The model pi4 needs QEMU 9.0" in str(MODELS)
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


@pytest.mark.parametrize("report", [BOOT, START, SOAK, MODELS], ids=["boot", "start", "soak", "models"])
def test_reports_are_json(report: BootReport | StartReport | SoakReport | ModelsReport) -> None:
    """For scripts: every single run."""
    data = json.loads(json.dumps(report.to_dict()))

    assert data["engine"] == "local"
    assert data["qemu"] == "QEMU 10.0.2"
