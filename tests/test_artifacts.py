"""Evidence that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.artifacts import folder_name, keep

if TYPE_CHECKING:
    from pathlib import Path


def make_node(directory: Path, **logs: str) -> Path:
    directory.mkdir(parents=True)
    for name, text in logs.items():
        (directory / f"{name}.log").write_text(text)
    return directory


def test_logs_of_every_node_are_kept(tmp_path: Path) -> None:
    """Each node has a folder with its logs."""
    nodes = [make_node(tmp_path / "c" / name, serial=f"serial of {name}", qemu="") for name in ("pi-1", "pi-2")]
    keep(nodes, tmp_path / "kept")

    assert (tmp_path / "kept" / "pi-1" / "serial.log").read_text() == "serial of pi-1"
    assert (tmp_path / "kept" / "pi-2" / "serial.log").read_text() == "serial of pi-2"
    assert (tmp_path / "kept" / "pi-2" / "qemu.log").exists()


def test_nothing_but_logs_is_kept(tmp_path: Path) -> None:
    """An overlay of gigabytes and sockets stay where they are."""
    node = make_node(tmp_path / "pi-1", serial="x")
    (node / "overlay.qcow2").write_bytes(b"big")
    keep([node], tmp_path / "kept")

    assert [path.name for path in (tmp_path / "kept" / "pi-1").iterdir()] == ["serial.log"]


def test_node_without_logs(tmp_path: Path) -> None:
    """A node that never started leaves an empty folder, and no error."""
    keep([make_node(tmp_path / "pi-1")], tmp_path / "kept")

    assert list((tmp_path / "kept" / "pi-1").iterdir()) == []


def test_keeping_again_replaces(tmp_path: Path) -> None:
    """Evidence of a second failure in the same place is the newer one."""
    node = make_node(tmp_path / "pi-1", serial="old")
    keep([node], tmp_path / "kept")
    (node / "serial.log").write_text("new")
    keep([node], tmp_path / "kept")

    assert (tmp_path / "kept" / "pi-1" / "serial.log").read_text() == "new"


def test_returns_where_it_is(tmp_path: Path) -> None:
    """The caller can say where the evidence is."""
    assert keep([], tmp_path / "kept") == tmp_path / "kept"


@pytest.mark.parametrize(
    ("test", "folder"),
    [
        ("tests/test_a.py::test_b[1-x]", "tests-test_a.py-test_b-1-x"),
        ("test_a.py::TestC::test_d", "test_a.py-TestC-test_d"),
        ("../up.py::test[../../etc]", "up.py-test-..-..-etc"),
        ("::[]", "test"),
        ("", "test"),
        ("test_ü", "test_"),
    ],
)
def test_folder_of_a_test(test: str, folder: str) -> None:
    """A test's name becomes one name for a folder."""
    assert folder_name(test) == folder


@given(st.text())
def test_folder_is_one_safe_name(test: str) -> None:
    """Whatever a parameter holds, the folder's name leads nowhere else and fits into a file system."""
    name = folder_name(test)

    assert name not in ("", ".", "..")
    assert "/" not in name
    assert name.isascii()
    assert len(name) <= 150
