"""Damaged files beside the cache: the baseline in the user's repository, kept evidence, and the notes of leases."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import hypothesis
from bad_inputs import apply, damaged, json_mutated, judged, remove, write
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.errors import BenchmarkError
from pytest_pidoc.host import processes
from pytest_pidoc.lifecycle import artifacts
from pytest_pidoc.lifecycle.artifacts import Limits
from pytest_pidoc.pi_benchmark import baseline
from pytest_pidoc.pi_benchmark.baseline import Conditions, Entry
from pytest_pidoc.pi_benchmark.options import DEFAULT_FILE
from pytest_pidoc.testrun import leases
from pytest_pidoc.testrun.leases import Lease

if TYPE_CHECKING:
    from pathlib import Path

FAST = hypothesis.settings.get_profile("soak")

ENTRY = Entry("test_a.py::test_a", Conditions("pi3-virt", 1000.0, "10.0.2", "debian"), "./a", "0", {"wall_time": 1})
BASELINE = {"format": 1, "benchmarks": [asdict(ENTRY), {**asdict(ENTRY), "name": "test_a.py::test_b"}]}
REPORT = {
    "tool": "pytest-pidoc",
    "version": "1",
    "run": "1:2:3",
    "kept": 1e9,
    "test": "test_a",
    "files": ["pi-1/a.log"],
}


def _use(path: Path) -> None:
    """Do with a baseline what a run does; its content is what a repository has, and is not lost."""
    before = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    with contextlib.suppress(BenchmarkError):
        baseline.compare(baseline.find(baseline.read(path), ENTRY, path=path), ENTRY, {"wall_time": 0.1})
    try:
        baseline.update(path, [ENTRY])
    except BenchmarkError:
        assert before is None or path.read_bytes() == before
        raise


@FAST
@given(json_mutated(BASELINE))
def test_baseline_that_says_something_else(nothing_left: Path, tmp_path: Path, content: Any) -> None:
    path = tmp_path / DEFAULT_FILE
    write(path, json.dumps(content).encode())
    with judged():
        _use(path)
    remove(path)


@FAST
@given(damaged(st.just(DEFAULT_FILE)))
def test_baseline_that_is_damaged(nothing_left: Path, tmp_path: Path, damage: list[Any]) -> None:
    path = tmp_path / DEFAULT_FILE
    write(path, json.dumps(BASELINE).encode())
    apply(tmp_path, damage)
    with judged():
        _use(path)
    remove(path)


def _evidence(base: Path, report: Any) -> None:
    remove(base)
    (base / "test" / "pi-1").mkdir(parents=True)
    (base / "mine").write_text("")
    (base / "test" / "pi-1" / "a.log").write_text("said")
    (base / "test" / "report.json").write_text(json.dumps(report))


def _keep_beside(base: Path) -> None:
    """Keep evidence beside what is there, for which there is too little room; the user's own file is none."""
    with judged():
        artifacts.keep([], base / "new", artifacts.Report("call", test="new"), limits=Limits(log=10, total=1))
        assert artifacts.folders_of_run(base, processes.own()) == [base / "new"]
    assert (base / "mine").exists()


@FAST
@given(json_mutated(REPORT))
def test_evidence_that_says_something_else(nothing_left: Path, tmp_path: Path, report: Any) -> None:
    base = tmp_path / "artifacts"
    _evidence(base, report)
    _keep_beside(base)


@FAST
@given(damaged(st.sampled_from(["test/report.json", "test/pi-1/a.log", "test/pi-1", "test"])))
def test_evidence_that_is_damaged(nothing_left: Path, tmp_path: Path, damage: list[Any]) -> None:
    base = tmp_path / "artifacts"
    _evidence(base, REPORT)
    apply(base, damage)
    _keep_beside(base)


@FAST
@given(st.one_of(json_mutated({"holder": "1:2:3", "user": "test_a"}).map(json.dumps), st.text(max_size=20)))
def test_note_of_a_lease(nothing_left: Path, tmp_path: Path, note: str) -> None:
    directory = tmp_path / "c-1f2e3d4c"
    remove(directory)
    directory.mkdir()
    write(directory / f"{leases.NOTES}1", note.encode("utf-8", "surrogatepass"))
    with judged():
        leases.users(directory)
        lease = Lease.take(directory, "test_b", shared=False)
        if lease is not None:
            lease.close()
