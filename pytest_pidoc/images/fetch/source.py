"""Where a file comes from: a path on this host, a URL with its required SHA-256, or a zip archive at one of these."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ChecksumMismatch, DownloadError, ImageError, SettingsError
from pytest_pidoc.images.fetch import download
from pytest_pidoc.images.fetch.unpack import unpack
from pytest_pidoc.images.store import stamps
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.values.checks import shown as quoted
from pytest_pidoc.values.progress import Progress

__all__ = ["FileSource", "Member", "is_location", "parse"]

_FORM = "write URL#sha256=<64 hex digits>"
_MARK = "#sha256="


@dataclass(frozen=True)
class FileSource:
    """A required file: its place, and its SHA-256 in hex.

    Attributes
    ----------
    place
        A URL, or an absolute path.
    sha256
        The checksum that it must have. It can be empty for a path: then any content is accepted.
    """

    place: str
    sha256: str = ""

    def __str__(self) -> str:
        """Return how a user writes it, without a password."""
        return download.shown(self.place) + (f"{_MARK}{self.sha256}" if self.sha256 else "")

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(self.place).path) or self.place).name

    @property
    def path(self) -> Path | None:
        """The path; ``None`` for a URL."""
        return None if "://" in self.place else Path(self.place)

    def identify(self, cache: Cache) -> str:
        """Return the SHA-256 without fetching anything.

        A file on this host is hashed, about 1 s per GB, unless it looks as it did the last time.

        Raises
        ------
        ImageError
            It cannot be read.
        ChecksumMismatch
            It has another SHA-256.
        """
        if self.path is None:
            return self.sha256
        found = _hash(cache, self.path)
        if self.sha256 and found != self.sha256:
            raise ChecksumMismatch(
                f"{self.path} has SHA-256 {found}, but {self.sha256} was expected.",
                tip="name another file, or correct the SHA-256 behind #sha256=",
            )
        return found

    def fetch(self, cache: Cache, progress: Progress) -> Path:
        """Return where the file is, downloaded first if it is a URL. It must not be written to.

        Raises
        ------
        DownloadError
            It cannot be downloaded.
        ChecksumMismatch
            It has another SHA-256.
        """
        if self.path is not None:
            self.identify(cache)
            return self.path
        return download.fetch(self.place, self.sha256, directory=cache.root / "downloads", progress=progress)

    def put(self, target: Path, cache: Cache, progress: Progress) -> None:
        """Write a copy to *target*, a new file.

        Raises
        ------
        DownloadError, ChecksumMismatch
            As `fetch` does.
        ImageError
            It changed during the copy.
        """
        expected = self.identify(cache)
        shutil.copyfile(self.fetch(cache, progress), target)
        if image_file(target).sha256 != expected:
            raise ImageError(
                f"{self} changed while pidoc copied it.", tip="run it again when nothing writes to the file"
            )


@dataclass(frozen=True)
class Member:
    """A file in a zip archive.

    Attributes
    ----------
    archive
        The archive.
    name
        The file's name in it, in whatever folder it lies.
    otherwise
        What to do if the archive is not available, for messages.
    """

    archive: FileSource
    name: str
    otherwise: str = ""

    def identify(self, cache: Cache) -> str:
        """Return what tells this file from others, without fetching anything: the archive's SHA-256 and the name."""
        return f"{self.archive.identify(cache)}/{self.name}"

    def fetch(self, cache: Cache, progress: Progress) -> Path:
        """Return where the archive is, downloaded first if it is a URL. It must not be written to.

        Raises
        ------
        DownloadError
            It cannot be downloaded.
        ChecksumMismatch
            It has another SHA-256.
        """
        try:
            return self.archive.fetch(cache, progress)
        except DownloadError as error:
            error.tip = "; ".join(filter(None, (error.tip, self.otherwise)))
            raise

    def put(self, target: Path, cache: Cache, progress: Progress) -> None:
        """Write the file to *target*, a new file.

        Raises
        ------
        DownloadError, ChecksumMismatch
            As `fetch` does.
        ImageError
            The archive does not contain the file, or more than one of that name.
        """
        unpack(self.fetch(cache, progress), target, member=self.name)


def is_location(text: str) -> bool:
    """Tell whether *text* is a path or a URL, not a name: it starts with ``/``, ``.`` or ``~``, or has a scheme."""
    return text.startswith(("/", "./", "../", "~")) or "://" in text


def parse(text: str, *, what: str) -> FileSource:
    """Read ``URL#sha256=HEX``, or a path with or without ``#sha256=HEX``.

    Parameters
    ----------
    text
        What the user wrote.
    what
        What it is for, for messages: ``kernel``.

    Raises
    ------
    SettingsError
        A URL has no valid SHA-256, or is not ``http``, ``https`` or ``file``.
    """
    place, mark, digest = text.strip().partition(_MARK)
    digest = digest.lower()
    shown = download.shown(place)
    if mark and not re.fullmatch("[0-9a-f]{64}", digest):
        raise SettingsError(f"{what}: the SHA-256 of {shown} must be 64 hex digits, not {quoted(digest)}.", tip=_FORM)
    if "://" not in place:
        return FileSource(str(Path(place).expanduser().absolute()), digest)
    address = urllib.parse.urlsplit(place)
    if address.scheme == "file":
        return FileSource(str(Path(urllib.parse.unquote(address.path)).absolute()), digest)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise SettingsError(f"{what}: {shown} must be a path or an http or https URL.", tip=_FORM)
    if not digest:
        raise SettingsError(
            f"{what}: the URL {shown} requires a SHA-256, so that the download can be checked.",
            tip=f"{_FORM}; publishers of images usually list the sha256sum next to the file",
        )
    return FileSource(place, digest)


def _hash(cache: Cache, path: Path) -> str:
    """Return a file's SHA-256, from a stamp if it looks as it did the last time."""
    stamp = cache.root / "stamps" / f"file-{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a device or a pipe might have no end
            raise ImageError(f"{path} is not a regular file.")
        look = [str(path), status.st_ctime_ns, stamps.look(path)]
        known = stamps.read(stamp)
        if isinstance(known, dict) and known.get("look") == look:
            return str(known["sha256"])
        digest = image_file(path).sha256
    except OSError as error:
        raise ImageError(f"Cannot read {path}: {error.strerror}.") from error
    with contextlib.suppress(OSError):  # then it is hashed again the next time
        stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamps.write(stamp, {"look": look, "sha256": digest})
    return digest
