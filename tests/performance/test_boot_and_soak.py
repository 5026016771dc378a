"""The reports of ``boot`` and ``soak``: what is made of times that were measured."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support import child, eventually

from pytest_pidoc.host import processes, records
from tests.performance.boot import BootReport, BootRow
from tests.performance.soak import Failure, SoakReport, Traces

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


@pytest.mark.parametrize("report", [BOOT, SOAK], ids=["boot", "soak"])
def test_reports_are_json(report: BootReport | SoakReport) -> None:
    """For scripts: every single run."""
    data = json.loads(json.dumps(report.to_dict()))

    assert data["engine"] == "local"
    assert data["qemu"] == "QEMU 10.0.2"
    assert data["ok"] is True
