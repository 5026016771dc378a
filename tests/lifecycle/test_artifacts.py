"""Evidence that is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.host import processes
from pytest_pidoc.lifecycle.artifacts import REPORT, Folder, Limits, Report, folder_name, folders, folders_of_run, keep

if TYPE_CHECKING:
    from pathlib import Path


def make_cluster(directory: Path, nodes: int = 1, **logs: str) -> Path:
    """Make a cluster's directory whose nodes have those logs."""
    for name in (f"pi-{number}" for number in range(1, nodes + 1)):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for log, text in logs.items():
            (directory / name / f"{log}.log").write_text(text.replace("NAME", name))
    return directory


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_logs_of_every_node_are_kept(tmp_path: Path) -> None:
    """Each node has a folder with its logs."""
    keep([make_cluster(tmp_path / "c", 2, serial="serial of NAME", qemu="")], tmp_path / "kept", Report("call"))

    assert (tmp_path / "kept" / "pi-1" / "serial.log").read_text() == "serial of pi-1"
    assert (tmp_path / "kept" / "pi-2" / "serial.log").read_text() == "serial of pi-2"
    assert (tmp_path / "kept" / "pi-2" / "qemu.log").exists()


def test_what_is_known_is_kept_beside(tmp_path: Path) -> None:
    """The record, the switch's log, QEMU's command line and the report are there."""
    cluster = make_cluster(tmp_path / "c", serial="x")
    (cluster / "cluster.json").write_text("{}")
    (cluster / "switch.log").write_text("said")
    (cluster / "pi-1" / "qemu.command").write_text("qemu-system-aarch64 -M virt")
    keep([cluster], tmp_path / "kept", Report("setup", test="test_a.py::test_b", error="why"))

    expected = ["cluster.json", "pi-1/qemu.command", "pi-1/serial.log", "report.json", "switch.log"]
    assert files(tmp_path / "kept") == expected
    report = json.loads((tmp_path / "kept" / REPORT).read_text())
    assert {name: report[name] for name in ("test", "failed", "error", "clusters")} == {
        "test": "test_a.py::test_b",
        "failed": "setup",
        "error": "why",
        "clusters": [],
    }
    assert sorted([*report["files"], REPORT]) == expected


def test_several_clusters_have_a_folder_each(tmp_path: Path) -> None:
    """The first node of one does not hide that of the other."""
    clusters = [make_cluster(tmp_path / name, serial=name) for name in ("c-1", "c-2")]
    keep(clusters, tmp_path / "kept", Report("call"))

    assert files(tmp_path / "kept") == ["c-1/pi-1/serial.log", "c-2/pi-1/serial.log", "report.json"]


def test_nothing_but_logs_is_kept(tmp_path: Path) -> None:
    """An overlay of gigabytes and sockets stay where they are."""
    cluster = make_cluster(tmp_path / "c", serial="x")
    (cluster / "pi-1" / "overlay.qcow2").write_bytes(b"big")
    keep([cluster], tmp_path / "kept", Report("call"))

    assert files(tmp_path / "kept") == ["pi-1/serial.log", "report.json"]


def test_cluster_without_logs(tmp_path: Path) -> None:
    """A node that never started, or a cluster that is gone, is no error."""
    keep([make_cluster(tmp_path / "c"), tmp_path / "gone"], tmp_path / "kept", Report("call"))

    assert files(tmp_path / "kept") == ["report.json"]


def test_keeping_again_replaces(tmp_path: Path) -> None:
    """Evidence of a second failure in the same place is the newer one; what has gone since stays."""
    cluster = make_cluster(tmp_path / "c", serial="old", qemu="words")
    keep([cluster], tmp_path / "kept", Report("call"))
    (cluster / "pi-1" / "serial.log").write_text("new")
    (cluster / "pi-1" / "qemu.log").unlink()
    keep([cluster], tmp_path / "kept", Report("call"))

    assert (tmp_path / "kept" / "pi-1" / "serial.log").read_text() == "new"
    assert (tmp_path / "kept" / "pi-1" / "qemu.log").read_text() == "words"
    folder = Folder.read(tmp_path / "kept")
    assert folder is not None
    assert sorted(folder.files) == ["pi-1/qemu.log", "pi-1/serial.log"]


def test_evidence_of_an_earlier_run_does_not_mix_with_this_ones(tmp_path: Path) -> None:
    """A third node of last week's run is not shown beside today's two, but the user's notes are."""
    command = (
        "import pathlib, sys; from pytest_pidoc.lifecycle.artifacts import Report, keep;"
        "keep([pathlib.Path(sys.argv[1])],"
    )
    program = [sys.executable, "-c", command + " pathlib.Path(sys.argv[2]), Report('call'))"]
    target = tmp_path / "kept"
    subprocess.run([*program, make_cluster(tmp_path / "old", 3, serial="old"), target], check=True)
    (target / "pi-3" / "notes").write_text("mine")
    assert folders_of_run(tmp_path, processes.own()) == []
    keep([make_cluster(tmp_path / "c", 2, serial="new")], target, Report("call"))

    assert files(target) == ["pi-1/serial.log", "pi-2/serial.log", "pi-3/notes", "report.json"]
    assert folders_of_run(tmp_path, processes.own()) == [target]


def test_returns_where_it_is(tmp_path: Path) -> None:
    """The caller can say where the evidence is."""
    assert keep([], tmp_path / "kept", Report("call")) == tmp_path / "kept"


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    """A guest that prints for ever does not fill the disk, and the text says what is missing."""
    cluster = make_cluster(tmp_path / "c", serial="first" + "." * 10_000 + "last")
    keep([cluster], tmp_path / "kept", Report("call"), limits=Limits(log=1000))

    text = (tmp_path / "kept" / "pi-1" / "serial.log").read_text()
    assert text.startswith("first.")
    assert text.endswith(".last")
    assert "[pytest-pidoc: 9009 of 10009 bytes are left out here]" in text
    assert len(text) < 1100


@given(size=st.integers(0, 300), limit=st.integers(1, 300))
def test_a_log_is_whole_or_says_how_much_it_lacks(
    tmp_path_factory: pytest.TempPathFactory, size: int, limit: int
) -> None:
    """Beginning, end and what is left out always add up."""
    folder = tmp_path_factory.mktemp("log")
    content = "".join(chr(65 + number % 26) for number in range(size))
    keep([make_cluster(folder / "c", serial=content)], folder / "kept", Report("call"), limits=Limits(log=limit))
    text = (folder / "kept" / "pi-1" / "serial.log").read_text()

    if size <= limit:
        assert text == content
    else:
        head, note, tail = text.partition(f"\n[pytest-pidoc: {size - limit} of {size} bytes are left out here]\n")
        assert note
        assert content.startswith(head)
        assert content.endswith(tail)
        assert len(head) + len(tail) == limit


def test_the_oldest_evidence_goes_first(tmp_path: Path) -> None:
    """All evidence in one place is bounded; the newest stays, be it as large as it may."""
    cluster = make_cluster(tmp_path / "c", serial="." * 1000)
    for number in range(5):
        keep([cluster], tmp_path / "base" / f"test-{number}", Report("call"), limits=Limits(total=4000))

    assert [folder.path.name for folder in folders(tmp_path / "base")] == ["test-2", "test-3", "test-4"]
    assert [path.name for path in folders_of_run(tmp_path / "base", processes.own())] == ["test-2", "test-3", "test-4"]
    keep([cluster], tmp_path / "base" / "last", Report("call"), limits=Limits(total=10))
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["last"]


def test_nothing_of_somebody_elses_goes(tmp_path: Path) -> None:
    """Folders without our report, files beside it, and what a forged report names stay."""
    base = tmp_path / "base"
    cluster = make_cluster(tmp_path / "c", serial="." * 1000)
    keep([cluster], base / "old", Report("call"))
    (base / "old" / "pi-1" / "notes").write_text("mine")
    (base / "theirs" / "pi-1").mkdir(parents=True)
    (base / "theirs" / "pi-1" / "serial.log").write_text("theirs")
    (tmp_path / "precious").write_text("precious")
    for name, listed in (("up", "../../precious"), ("absolute", str(tmp_path / "precious"))):
        (base / name).mkdir()
        forged = {"tool": "pytest-pidoc", "kept": 0, "run": "", "files": [listed]}
        (base / name / REPORT).write_text(json.dumps(forged))
    (base / "linked").mkdir()
    (base / "linked" / "pi-1").symlink_to(tmp_path)
    forged = {"tool": "pytest-pidoc", "kept": 0, "run": "", "files": ["pi-1/precious"]}
    (base / "linked" / REPORT).write_text(json.dumps(forged))
    keep([cluster], base / "new", Report("call"), limits=Limits(total=10))

    assert (tmp_path / "precious").read_text() == "precious"
    assert files(base / "old") == ["pi-1/notes"]
    assert files(base / "theirs") == ["pi-1/serial.log"]
    assert files(base / "new") == ["pi-1/serial.log", "report.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tool": "other"}', '{"tool": "pytest-pidoc"}', "\udcff"])
def test_folder_without_a_report_of_ours_is_not_ours(tmp_path: Path, text: str) -> None:
    """Half a report, and another program's, is none."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / REPORT).write_bytes(os.fsencode(text))

    assert folders(tmp_path) == []
    assert folders(tmp_path / "nowhere") == []


def test_evidence_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A disk without room for the report, here a file that may not grow, leaves no half of one and no empty folder."""
    program = (
        "import pathlib, resource, sys; from pytest_pidoc.lifecycle.artifacts import Report, keep;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); keep([], pathlib.Path(sys.argv[1]), Report('call'))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "base" / "kept"], capture_output=True, check=False)

    assert b"File too large" in done.stderr
    assert list((tmp_path / "base").iterdir()) == []


@pytest.mark.parametrize(
    ("test", "folder"),
    [
        ("tests/test_a.py::test_b[1-x]", "tests-test_a.py-test_b-1-x-"),
        ("test_a.py::TestC::test_d", "test_a.py-TestC-test_d-"),
        ("../up.py::test[../../etc]", "up.py-test-..-..-etc-"),
        ("::[]", "test-"),
        ("", "test-"),
        ("test_ü", "test_-"),
    ],
)
def test_folder_of_a_test(test: str, folder: str) -> None:
    """A test's name becomes one name for a folder."""
    assert folder_name(test)[:-8] == folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tests/test_a.py::test_b", "tests-test_a.py::test_b"),
        ("test_a.py::test_b[1/2]", "test_a.py::test_b[1:2]"),
        ("test_a.py::test_b[" + "x" * 200 + "1]", "test_a.py::test_b[" + "x" * 200 + "2]"),
    ],
)
def test_folders_of_two_tests_differ(one: str, other: str) -> None:
    """Also if their names differ in punctuation only, or late."""
    assert folder_name(one) != folder_name(other)
    assert folder_name(one)[:-8] == folder_name(other)[:-8]


@given(st.text())
def test_folder_is_one_safe_name(test: str) -> None:
    """Whatever a parameter holds, the folder's name leads nowhere else and fits into a file system."""
    name = folder_name(test)

    assert name not in ("", ".", "..")
    assert "/" not in name
    assert name.isascii()
    assert len(name) <= 150
