"""A start: memory is asked for first, and what the nodes take is looked for when there is some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import EngineUnavailable, NoRoom
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import capacity
from pytest_pidoc.lifecycle.attempt import Ownership
from pytest_pidoc.lifecycle.start import Starter
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a QEMU that fails in front of all others; return the file in which it notes that it was run."""
    programs, noted = tmp_path / "bin", tmp_path / "noted"
    programs.mkdir()
    for name in ("qemu-system-aarch64", "qemu-img"):
        (programs / name).write_text(f"#!/bin/sh\necho ran >> {noted}\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return noted


@pytest.fixture
def starter(clusters: Path, tmp_path: Path) -> Starter:
    """Return what starts a cluster on the engine local, with an empty cache."""
    settings = Settings.load({"engine": "local", "cache_dir": str(tmp_path / "cache")}, environment={})
    return Starter(settings.spec(), settings, Ownership(processes.own()), Progress(), present=Cluster)


def test_waiting_for_memory_only_reads_records(starter: Starter, qemu: Path, clusters: Path, tmp_path: Path) -> None:
    """However often it is tried, no QEMU is run, no image is looked for and no directory is made."""
    other = records.new_directory()
    records.write(other, {"name": other.name, "owner": None, "engine": "local", "memory": capacity.memory()})

    with starter:
        for _ in range(20):
            with pytest.raises(NoRoom, match=f"taken by {other.name}"):
                starter.attempt()

    assert not qemu.exists()
    assert not (tmp_path / "cache").exists()
    assert [path.name for path in clusters.iterdir()] == [other.name]


def test_what_the_nodes_take_is_looked_for_when_there_is_memory(starter: Starter, qemu: Path, clusters: Path) -> None:
    """Then QEMU is asked for its version, which this one does not tell."""
    with starter, pytest.raises(EngineUnavailable, match="qemu-system-aarch64"):
        starter.attempt()

    assert qemu.read_text() == "ran\n"
    assert list(records.cluster_directories()) == []
