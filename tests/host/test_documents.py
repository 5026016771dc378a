"""Small files: written completely or not at all, and read completely or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_pidoc.host import documents


@pytest.mark.parametrize(("content", "expected"), [("ä", b"\xc3\xa4"), (b"\xff", b"\xff"), ("", b"")])
def test_content_is_replaced_completely(tmp_path: Path, content: str | bytes, expected: bytes) -> None:
    """A text or bytes take the place of a longer file, and nothing else is in the directory afterwards."""
    path = tmp_path / "file.json"
    path.write_bytes(b"x" * 10_000)

    documents.write(path, content)

    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_reader_keeps_the_old_file(tmp_path: Path) -> None:
    """Who has opened the file before it is replaced reads the old content to its end."""
    path = tmp_path / "file.json"
    documents.write(path, "old")

    with path.open() as stream:
        documents.write(path, "newer")
        assert stream.read() == "old"


def test_mode_is_the_callers(tmp_path: Path) -> None:
    """A secret is written with its own permissions, also over a file that others can read."""
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)

    documents.write(path, "new", mode=0o600)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")], ids=["written", "renamed"])
def test_error_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """Whether writing the draft fails or its renaming."""
    path = tmp_path / "file.json"
    documents.write(path, "old")
    monkeypatch.setattr(owner, name, _full_disk)

    with pytest.raises(OSError, match="No space left"):
        documents.write(path, "new", synced=True)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    """A text with a lone surrogate is refused before there is a draft."""
    with pytest.raises(UnicodeEncodeError):
        documents.write(tmp_path / "file.json", "\udcff")

    assert list(tmp_path.iterdir()) == []


def test_draft_can_have_a_name_of_its_own(tmp_path: Path) -> None:
    """What a killed writer left under that name is replaced, and does not stay."""
    draft = tmp_path / "file.new"
    draft.write_text("half of some")

    documents.write(tmp_path / "file.json", "{}", draft=draft)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file.json": "{}"}


def test_end_of_a_log(tmp_path: Path) -> None:
    """The last lines, of a file or a text; empty lines are left out, and a progress bar's states are lines."""
    text = "first\n\n10 %\r 20 %\r\nlast\n\n"
    (tmp_path / "log").write_bytes(text.encode() + b"\xff\n")

    assert documents.tail(text, lines=2) == " 20 %\nlast"
    assert documents.tail(tmp_path / "log", lines=3) == " 20 %\nlast\n\ufffd"
    assert documents.tail(text) == "first\n10 %\n 20 %\nlast"
    assert documents.tail("\n") == ""


def test_end_of_a_huge_log(tmp_path: Path) -> None:
    """Of a log that is one endless line, a bounded part is shown."""
    with (tmp_path / "log").open("wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(0, os.SEEK_END)
        stream.write(b"end")

    assert documents.tail(tmp_path / "log").endswith("end")
    assert len(documents.tail(tmp_path / "log")) == documents.END


def test_log_that_does_not_exist_has_no_end(tmp_path: Path) -> None:
    """The error that shows a log matters more than the log."""
    assert documents.tail(tmp_path / "log") == ""


def test_deep_nesting_is_a_value_error() -> None:
    """A damaged file cannot raise RecursionError in its reader."""
    with pytest.raises(ValueError, match="nested too deeply"):
        documents.parse("[" * 100_000)


def test_pipe_is_refused(tmp_path: Path) -> None:
    """A pipe in the file's place is an error, and blocks nobody."""
    os.mkfifo(tmp_path / "file.json")

    with pytest.raises(ValueError, match="not a regular file"):
        documents.read(tmp_path / "file.json")
