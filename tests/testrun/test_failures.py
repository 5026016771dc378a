"""What a failed test leaves for those who read its report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_pidoc.lifecycle import artifacts
from pytest_pidoc.testrun.failures import properties_of_test

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
