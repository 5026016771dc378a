"""The baseline: read, held against, and never half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.errors import BenchmarkError, BenchmarkSlower
from pytest_pidoc.pi_benchmark.baseline import Conditions, Entry, compare, find, read, update

if TYPE_CHECKING:
    from typing import Any

CONDITIONS = Conditions("pi3-virt", 1000.0, "10.0.2 (Debian)", "debian:bookworm 0afe2b3be4cf")
ENTRY = Entry("test_a.py::test_a", CONDITIONS, "./a", "0" * 64, {"instructions": 1000.0, "guest_time": 0.5})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pidoc-benchmarks.json"


def test_what_was_written_is_read(path: Path) -> None:
    """All of it, in the order of the names."""
    other = replace(ENTRY, name="test_a.py::test_0", program=None, conditions=replace(CONDITIONS, mips=None))

    assert update(path, [ENTRY, other]) == 2
    assert read(path) == (other, ENTRY)
    assert list(path.parent.iterdir()) == [path]


def test_no_file_is_an_empty_baseline(path: Path) -> None:
    """The first update makes it."""
    assert read(path) == ()


def test_update_replaces_what_was_measured_again(path: Path) -> None:
    """The same benchmark of another model, rate or QEMU stays; one of an older image goes."""
    elsewhere = [replace(ENTRY, conditions=replace(CONDITIONS, **{name: value})) for name, value in ELSEWHERE]
    update(path, [ENTRY, *elsewhere])
    newer = replace(ENTRY, conditions=replace(CONDITIONS, image="debian:bookworm 111111111111"), metrics={})

    assert update(path, [newer]) == 4
    assert set(map(repr, read(path))) == set(map(repr, [newer, *elsewhere]))


ELSEWHERE: list[tuple[str, Any]] = [("model", "pi4-virt"), ("mips", 500.0), ("qemu", "7.2.0")]


@pytest.mark.parametrize("name", ["model", "mips", "qemu", "image"])
def test_mismatch_is_named(path: Path, name: str) -> None:
    """Apples are compared with apples: what differs is said, with both values."""
    other = replace(CONDITIONS, **{name: 1.0 if name == "mips" else "another"})

    with pytest.raises(BenchmarkError, match="was recorded under other conditions") as caught:
        find([ENTRY], replace(ENTRY, conditions=other), path=path, tip="update it")

    expected = f"{name}: {getattr(CONDITIONS, name)} in the baseline, {getattr(other, name)} now"
    assert caught.value.evidence == expected
    assert caught.value.tip == "update it"


def test_right_machine_is_found_among_others(path: Path) -> None:
    """One file can hold the figures of several."""
    other = replace(ENTRY, conditions=replace(CONDITIONS, qemu="7.2.0"), metrics={"instructions": 7.0})

    assert find([other, ENTRY], ENTRY, path=path) is ENTRY
    assert find([other, ENTRY], other, path=path) is other


def test_benchmark_that_is_not_in_it_is_told(path: Path) -> None:
    """With the name of the file."""
    with pytest.raises(BenchmarkError, match=rf"{path} has no entry for test_a\.py::test_new"):
        find([ENTRY], replace(ENTRY, name="test_a.py::test_new"), path=path)


def test_slower_shows_old_new_and_difference() -> None:
    """And whether the program is another one, and what to do if that is right."""
    slower = replace(ENTRY, metrics={"instructions": 1021.0}, program="1" * 64, command="./a -v")

    with pytest.raises(BenchmarkSlower, match=r"test_a\.py::test_a is slower than its baseline") as caught:
        compare(ENTRY, slower, {"instructions": 0.02}, tip="pytest --update")

    assert caught.value.evidence.splitlines() == [
        "instructions: 1,000 before, 1,021 now: +2.10 %, allowed +2 %",
        "The command has changed from './a' to './a -v'.",
        "The program's file has changed.",
    ]
    assert caught.value.tip == "pytest --update"


@pytest.mark.parametrize("now", [0.0, 500.0, 1000.0, 1020.0])
def test_within_the_limit_is_no_error(now: float) -> None:
    """Less is never too much."""
    compare(ENTRY, replace(ENTRY, metrics={"instructions": now, "guest_time": 99.0}), {"instructions": 0.02})


def test_metric_that_is_missing_is_told() -> None:
    """On either side."""
    with pytest.raises(BenchmarkError, match=r"The baseline of .* has no metric wall_time"):
        compare(ENTRY, ENTRY, {"wall_time": 0.5})
    with pytest.raises(BenchmarkError, match=r"This run of .* has no metric guest_time"):
        compare(ENTRY, replace(ENTRY, metrics={"instructions": 1.0}), {"guest_time": 0.5})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 1, "benchmarks": [{}]}',
        b'{"format": 1, "benchmarks": 7}',
        b'{"format": 1, "benchmarks": [{"name": "a", "conditions": {"model": 1}, "command": "", "metrics": {}}]}',
        b"<<<<<<< HEAD\n{}",
    ],
)
def test_corrupted_file_is_told_and_left(path: Path, content: bytes) -> None:
    """Neither is it read as empty, nor is it written over."""
    path.write_bytes(content)

    with pytest.raises(BenchmarkError, match=r"pidoc-benchmarks\.json cannot be read") as caught:
        update(path, [ENTRY])

    assert path.read_bytes() == content
    assert "version control" in caught.value.tip


def test_file_of_a_later_version_is_told(path: Path) -> None:
    """It is not corrupted."""
    path.write_text(json.dumps({"format": 2, "benchmarks": []}))

    with pytest.raises(BenchmarkError, match=r"has the format .*; this version reads format 1"):
        read(path)


def test_every_truncation_is_noticed(path: Path) -> None:
    """No part of a file passes for the whole."""
    update(path, [ENTRY])
    whole = path.read_bytes()

    for length in range(len(whole) - 1):  # without the last line break it is whole
        path.write_bytes(whole[:length])
        with pytest.raises(BenchmarkError):
            read(path)


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names it, and nothing is left."""
    with pytest.raises(BenchmarkError, match="cannot be written: No such file or directory"):
        update(tmp_path / "gone" / "pidoc-benchmarks.json", [ENTRY])


def test_killed_writer_leaves_the_old_or_the_new(path: Path) -> None:
    """Whenever a writer is killed, the file is whole."""
    update(path, [ENTRY])
    script = (
        "import sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        "from pytest_pidoc.pi_benchmark.baseline import read, update\n"
        "path = Path(sys.argv[1])\n(entry,) = read(path)\nprint(flush=True)\nnumber = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    update(path, [replace(entry, name=f'test {each}') for each in range(number % 50)] + [entry])\n"
    )
    for _ in range(5):
        path.unlink()
        update(path, [ENTRY])
        writer = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(20):
            assert ENTRY in read(path)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert ENTRY in read(path)
