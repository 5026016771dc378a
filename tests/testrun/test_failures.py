"""What a failed test leaves for those who read its report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.guest.serial_log import SerialLog
from pytest_pidoc.lifecycle import artifacts
from pytest_pidoc.testrun.failures import ENOUGH, GOT, SERIAL_LINES, properties_of_test, serial_lines

if TYPE_CHECKING:
    from pathlib import Path

TEST = "tests/test_a.py::test_b"


def test_property_is_the_folder_with_the_evidence(tmp_path: Path) -> None:
    """A test whose evidence was kept has one property, with the folder's path."""
    folder = artifacts.keep([], tmp_path / artifacts.folder_name(TEST), artifacts.Report("call", test=TEST))

    assert properties_of_test(TEST, tmp_path) == [("pidoc_artifacts", str(folder))]


def test_evidence_that_was_not_kept_has_no_property(tmp_path: Path) -> None:
    """Neither a missing folder is named, nor what another run has left under the same name."""
    assert properties_of_test(TEST, tmp_path) == []

    folder = artifacts.keep([], tmp_path / artifacts.folder_name(TEST), artifacts.Report("call", test=TEST))
    report = json.loads((folder / artifacts.REPORT).read_text())
    (folder / artifacts.REPORT).write_text(json.dumps({**report, "run": "4711:another"}))

    assert properties_of_test(TEST, tmp_path) == []


@pytest.mark.parametrize("new", [0, 1, ENOUGH - 1, ENOUGH, SERIAL_LINES, 1000])
def test_serial_lines_begin_where_the_test_got_the_node(tmp_path: Path, new: int) -> None:
    """What was printed before is shown if there is little else, and where it ends is, too."""
    log = SerialLog(tmp_path / "serial.log")
    log.path.write_text("".join(f"[  OK  ] Started {number}\r\n" for number in range(500)))
    size = log.size()
    with log.path.open("a") as stream:
        stream.write("".join(f"said in the test {number}\r\n" for number in range(new)))
    lines = serial_lines(log, size).splitlines()
    said = [line for line in lines if line.startswith("said")]

    assert said == [f"said in the test {number}" for number in range(new)][-SERIAL_LINES:]
    if new < ENOUGH:
        assert lines[: SERIAL_LINES - new][-1] == "[  OK  ] Started 499"
        assert lines[SERIAL_LINES - new :] == [GOT, *said]
    else:
        assert lines == said


def test_serial_lines_of_a_silent_node(tmp_path: Path) -> None:
    """There are none, and nobody speaks of a place in them."""
    log = SerialLog(tmp_path / "serial.log")

    assert serial_lines(log, 0) == ""
    log.path.write_text("first words\n")
    assert serial_lines(log, 0) == "first words"
