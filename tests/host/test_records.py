"""The directory of running clusters."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.host import records

RECORD = {"name": "c-1", "owner": None, "engine": "local"}


def test_root_is_this_users_alone(clusters: Path) -> None:
    """Nobody else can look at sockets and keys."""
    assert stat.S_IMODE(clusters.stat().st_mode) == 0o700
    assert clusters.name == f"pidoc-{os.getuid()}"


def test_root_is_the_same_each_time(clusters: Path) -> None:
    """A directory that is there is used again."""
    assert records.root() == clusters


def test_root_that_others_can_enter_is_refused(clusters: Path) -> None:
    """A directory with open doors cannot be trusted."""
    clusters.chmod(0o755)
    with pytest.raises(SettingsError, match="must be a directory that belongs to you and has mode 0700"):
        records.root()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_root_of_somebody_else_is_refused(clusters: Path) -> None:
    """Who made the directory first does not get our sockets."""
    os.chown(clusters, 65534, 65534)
    with pytest.raises(SettingsError, match="must be a directory that belongs to you and has mode 0700"):
        records.root()


def test_root_that_is_a_link_is_refused(clusters: Path, tmp_path: Path) -> None:
    """A link that somebody laid leads to nowhere we would go."""
    clusters.rmdir()
    (tmp_path / "target").mkdir(mode=0o700)
    clusters.symlink_to(tmp_path / "target")
    with pytest.raises(SettingsError, match="must be a directory that belongs to you and has mode 0700"):
        records.root()


def test_root_that_is_a_file_is_refused(clusters: Path) -> None:
    """A file in the directory's place is an error that says what to do."""
    clusters.rmdir()
    clusters.write_text("")
    with pytest.raises(SettingsError) as caught:
        records.root()

    assert "TMPDIR" in caught.value.tip


def test_root_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory that takes no directory is an error that says what to do."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(
        SettingsError, match=r"Cannot use the directory /proc/pidoc-\d+ for running clusters: .*\nTry: set TMPDIR"
    ):
        records.root()


def test_new_directory_is_empty_and_private(clusters: Path) -> None:
    """A cluster begins with a directory of its own."""
    directory = records.new_directory()

    assert directory.parent == clusters
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(directory.iterdir()) == []


def test_new_directories_have_different_names(clusters: Path) -> None:
    """Two clusters never share a name."""
    assert len({records.new_directory().name for _ in range(50)}) == 50


def test_clusters_are_listed_oldest_first(clusters: Path) -> None:
    """The list is in the order of their making, whatever their names."""
    made = [records.new_directory() for _ in range(5)]
    for age, directory in enumerate(reversed(made)):
        os.utime(directory, (1_000_000 + age, 1_000_000 + age))

    assert list(records.cluster_directories()) == made[::-1]


def test_failed_starts_are_not_clusters(clusters: Path) -> None:
    """Logs of failed starts are kept beside the clusters, and not listed with them."""
    records.failed_directory().mkdir()

    assert list(records.cluster_directories()) == []
    assert records.failed_directory().parent == clusters


def test_record_is_read_as_it_was_written(clusters: Path) -> None:
    """What one process writes down, another reads."""
    directory = records.new_directory()
    records.write(directory, RECORD)

    assert records.read(directory) == RECORD


def test_record_is_replaced_whole(clusters: Path) -> None:
    """A new record leaves no draft and nothing of the old one."""
    directory = records.new_directory()
    records.write(directory, {**RECORD, "more": "x" * 10_000})
    records.write(directory, RECORD)

    assert records.read(directory) == RECORD
    assert [path.name for path in directory.iterdir()] == [records.RECORD]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "\udcff"])
def test_record_that_is_none_is_refused(clusters: Path, text: str) -> None:
    """A damaged record is an error of ours that names the cluster."""
    directory = records.new_directory()
    (directory / records.RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PidocError, match=directory.name):
        records.read(directory)


def test_cluster_that_is_not_there(clusters: Path) -> None:
    """The tip says how to find the clusters that are there."""
    with pytest.raises(PidocError, match="The cluster c-nobody does not exist") as caught:
        records.read(clusters / "c-nobody")

    assert "pidoc ps" in caught.value.tip


def test_removed_directory_is_gone(clusters: Path) -> None:
    """Removing takes everything with it."""
    directory = records.new_directory()
    (directory / "pi-1").mkdir()
    (directory / "pi-1" / "overlay.qcow2").write_bytes(b"x")
    records.remove(directory)

    assert not directory.exists()


def test_removing_what_is_gone_is_no_error(clusters: Path) -> None:
    """It is fine if somebody else was faster."""
    records.remove(clusters / "c-nobody")
