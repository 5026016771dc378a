"""Where a file comes from: paths, and URLs with the checksum that they must have."""

import hashlib
import os

import pytest
from file_server import file_server

from pytest_pidoc.errors import ChecksumMismatch, ImageError, SettingsError
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.fetch.source import FileSource, parse
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.values.progress import Progress

SHA256 = "0123456789abcdef" * 4


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.mark.parametrize("place", ["http://example.org/a", "https://user:word@example.org:8443/a.img.xz?token=1"])
def test_a_url_has_its_checksum_behind_it(place):
    """In the fragment, which no server ever sees."""
    assert parse(f"{place}#sha256={SHA256.upper()}", what="kernel") == FileSource(place, SHA256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.org/a", r"(?s)requires a SHA-256.*URL#sha256=<64 hex digits>"),
        ("https://example.org/a#sha256=", "must be 64 hex digits, not "),
        ("https://example.org/a#sha256=abc", "must be 64 hex digits, not "),
        (f"https://example.org/a#sha256={SHA256}0", "must be 64 hex digits, not "),
        (f"https://example.org/a#sha256={'g' * 64}", "must be 64 hex digits, not "),
        ("/a/path#sha256=1234", "must be 64 hex digits, not "),
        (f"ftp://example.org/a#sha256={SHA256}", "must be a path or an http or https URL"),
        (f"https:///a#sha256={SHA256}", "must be a path or an http or https URL"),
    ],
)
def test_a_url_without_a_checksum_or_of_another_kind_is_refused(text, message):
    """The answer says what it is for, and how to write it."""
    with pytest.raises(SettingsError, match=message) as error:
        parse(text, what="kernel")
    assert error.value.what.startswith("kernel: ")


def test_a_password_is_not_shown():
    """Neither in an error nor in a manifest."""
    with pytest.raises(SettingsError) as error:
        parse("https://user:word@example.org/a?token=1", what="kernel")

    assert "word" not in str(error.value)
    assert (
        str(FileSource("https://user:word@example.org/a?token=1", SHA256)) == f"https://example.org/a#sha256={SHA256}"
    )


def test_paths_are_made_absolute(monkeypatch, tmp_path):
    """Whoever reads them may be in another directory; ``~`` is home; ``file:`` is a path too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")

    assert parse("disk.img", what="image") == FileSource(str(tmp_path / "disk.img"))
    assert parse("~/disk.img", what="image") == FileSource("/home/me/disk.img")
    assert parse("file:///a%20b/disk.img", what="image") == FileSource("/a b/disk.img")
    assert parse(f"/a/disk.img#sha256={SHA256}", what="image") == FileSource("/a/disk.img", SHA256)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("/a", True),
        ("./a", True),
        ("../a", True),
        ("~/a", True),
        ("https://example.org/a", True),
        ("debian:bookworm", False),
        ("raspios", False),
        ("a.img", False),
    ],
)
def test_a_location_is_told_from_a_name(text, location):
    """A file in the current directory is written with ``./``, as for a shell."""
    assert source.is_location(text) is location


def test_a_file_is_hashed_once_as_long_as_it_looks_the_same(cache, tmp_path, monkeypatch):
    """An image has gigabytes, and is asked for at each start."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"content")
    wanted = FileSource(str(path))
    first = wanted.identify(cache)
    hashed = []
    real = source.image_file
    monkeypatch.setattr(source, "image_file", lambda path: hashed.append(path) or real(path))

    assert wanted.identify(cache) == first == hashlib.sha256(b"content").hexdigest()
    assert hashed == []
    path.write_bytes(b"CONTENT")
    assert wanted.identify(cache) == hashlib.sha256(b"CONTENT").hexdigest()
    assert hashed == [path]


def test_a_stamp_that_is_damaged_is_not_believed(cache, tmp_path):
    """It is only a way to be quick."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"content")
    FileSource(str(path)).identify(cache)
    for stamp in (cache.root / "stamps").iterdir():
        stamp.write_text('{"look": []')

    assert FileSource(str(path)).identify(cache) == hashlib.sha256(b"content").hexdigest()


def test_a_file_must_be_what_it_was_said_to_be(cache, tmp_path):
    """A path may have a checksum too."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"content")

    with pytest.raises(ChecksumMismatch, match=SHA256):
        FileSource(str(path), SHA256).identify(cache)


def test_a_file_that_is_not_there_is_an_image_error(cache, tmp_path):
    """The path is named."""
    with pytest.raises(ImageError, match=r"Cannot read .*nowhere"):
        FileSource(str(tmp_path / "nowhere")).identify(cache)


def test_a_users_file_is_used_where_it_is_and_a_url_is_downloaded(cache, tmp_path):
    """What is here is not copied; what is not goes to the cache."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"content")
    content = os.urandom(1000)
    with file_server() as server:
        url, sha256 = server.add("/pi.img", content)

        assert FileSource(str(path)).fetch(cache, Progress()) == path
        assert FileSource(url, sha256).fetch(cache, Progress()) == cache.root / "downloads" / sha256
        assert FileSource(url, sha256).identify(cache) == sha256
