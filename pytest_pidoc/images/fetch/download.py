"""Downloads: named by SHA-256, resumed after an interruption, and renamed only when the checksum matches.

::

    DIRECTORY/SHA256          a file that arrived whole and was checked
    DIRECTORY/SHA256.stamp    what it looked like then
    DIRECTORY/SHA256.part     what has arrived so far
    DIRECTORY/SHA256.json     how the server tells whether its file has changed
    DIRECTORY/SHA256.lock     held by whoever downloads
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.errors import ChecksumMismatch, DownloadError, ImageError
from pytest_pidoc.host import documents
from pytest_pidoc.host.locks import locked
from pytest_pidoc.images.store import stamps
from pytest_pidoc.images.store.cache import FREE_SPACE, image_file
from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:  # requests takes 0.1 s to import
    import requests

__all__ = ["Patience", "discard", "fetch", "is_whole", "kept", "shown"]

CHUNK = 1 << 20  # bytes
REDIRECTS = 10
TELL_EVERY = 10.0  # seconds between two progress lines
LOCK_TIMEOUT = 7200.0  # seconds to wait for another process's download of the same file
ROOM = 256 * 1024**2  # bytes that a download leaves free

_KEPT = {".lock", ".holder", ".json", ".stamp", ".new"}  # a lock that is removed would be no lock
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long a download waits for a slow or failing server.

    Attributes
    ----------
    connect, read
        Seconds to wait at most for the connection, and for the next bytes.
    attempts
        How many attempts in a row can fail with little progress; one that brings `enough` resets the count.
    enough
        In bytes.
    slowest
        Bytes per second that must arrive at least, once an attempt has lasted for `read` seconds.
    pause
        Seconds before the second attempt; twice as long before each further one, at most 30.
    """

    connect: float = 15.0
    read: float = 60.0
    attempts: int = 5
    enough: int = 1 << 20
    slowest: float = 1024.0
    pause: float = 1.0


def fetch(
    url: str,
    sha256: str,
    *,
    directory: Path,
    progress: Progress,
    patience: Patience | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Return the file that *url* serves, once it is whole and has that *sha256*.

    Parameters
    ----------
    url
        ``http`` or ``https``. A redirect from ``https`` to ``http`` is refused.
    sha256
        64 hex digits.
    directory
        Where downloads are kept; created if needed.
    progress
        Is called with the size so far, every 10 s.
    patience
        How long to wait for the server.
    sleep
        How to wait between two attempts.

    Raises
    ------
    DownloadError
        The download is incomplete. What has arrived is kept, and the next call resumes there.
    ChecksumMismatch
        The file has another checksum; nothing of it is kept.
    ImageError
        The directory cannot be used.
    """
    final = directory / sha256
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        purpose = f"downloading {shown(url)}"
        with locked(directory / f"{sha256}.lock", purpose=purpose, timeout=LOCK_TIMEOUT, progress=progress):
            os.utime(final.with_suffix(".lock"))  # prune reads it as the time of the last use
            if final.exists() and not is_whole(final):
                progress.step(f"{final} is damaged: downloading it again")
                final.unlink()
            if not final.exists():
                one = _Download(url, sha256, final, progress, patience or Patience())
                one.run(sleep)
        return final
    except OSError as error:
        raise ImageError(
            f"Cannot save {shown(url)} in {directory}: {error.strerror}.",
            tip=FREE_SPACE,
        ) from error


def is_whole(path: Path, *, thorough: bool = False) -> bool:
    """Tell whether a finished download has the SHA-256 in its name; hashed only if it looks changed or if *thorough*.

    Raises
    ------
    OSError
        It cannot be read.
    """
    stamp, look = path.with_suffix(".stamp"), stamps.look(path)
    if not thorough and look is not None and stamps.read(stamp) == look:
        return True
    if image_file(path).sha256 != path.name:
        return False
    stamps.write(stamp, look)
    return True


def kept(directory: Path) -> list[Path]:
    """Return what was downloaded, whole or not."""
    return sorted(path for path in directory.glob("*") if path.suffix not in _KEPT and path.is_file())


def discard(path: Path, *, dry_run: bool = False) -> None:
    """Remove a download; with *dry_run* only check whether it could be removed.

    Raises
    ------
    PidocError
        It is still in progress.
    OSError
        It cannot be removed.
    """
    with locked(path.with_suffix(".lock"), purpose=f"removing the download {path.name[:12]}", timeout=0):
        if not dry_run:
            for name in (path, path.with_suffix(".json"), path.with_suffix(".stamp")):
                name.unlink(missing_ok=True)


def shown(url: str) -> str:
    """Return a URL that is safe to show: without user, password and query (what follows ``?``)."""
    if "://" not in url:
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Broken(Exception):
    """An attempt ended early, and another one might succeed."""


class _Download:
    """One download, by as many attempts as it takes."""

    def __init__(self, url: str, sha256: str, final: Path, progress: Progress, patience: Patience) -> None:
        self.url = url
        self.sha256 = sha256
        self.final = final
        self.part = final.with_suffix(".part")
        self.notes = final.with_suffix(".json")
        self.progress = progress
        self.patience = patience

    def run(self, sleep: Callable[[float], None]) -> None:
        resumed = self.size > 0
        if not resumed or self.hash() != self.sha256:  # else it was whole, and its owner killed before it was named
            self.progress.step(f"{'resuming the download of' if resumed else 'downloading'} {shown(self.url)}")
            self.attempt_until_whole(sleep)
            found = self.hash()
            if found != self.sha256 and resumed:
                self.progress.step("the partial download belongs to another file: downloading it again")
                self.forget()
                self.attempt_until_whole(sleep)
                found = self.hash()
            if found != self.sha256:
                self.forget()
                raise ChecksumMismatch(
                    f"{shown(self.url)} has SHA-256 {found}, but {self.sha256} was expected.",
                    tip="compare with the SHA-256 that its publisher names; if that was expected, the file was changed",
                )
        with self.part.open("rb") as stream:
            os.fsync(stream.fileno())
        self.part.rename(self.final)
        stamps.write(self.final.with_suffix(".stamp"), stamps.look(self.final))
        self.notes.unlink(missing_ok=True)

    def attempt_until_whole(self, sleep: Callable[[float], None]) -> None:
        failures = 0
        while True:
            before = self.size
            try:
                return self.attempt()
            except _Broken as error:
                failures = 1 if self.size - before >= self.patience.enough else failures + 1
                if failures >= self.patience.attempts:
                    raise DownloadError(
                        f"Downloading {shown(self.url)} failed: {error}.",
                        look=str(self.part) if self.size else "",
                        tip=f"run it again; the download resumes at {_megabytes(self.size)}"
                        if self.size
                        else "check that the server is up and that the host is online",
                    ) from error
                self.progress.step(f"the download was interrupted at {_megabytes(self.size)} ({error}); trying again")
            sleep(min(30.0, self.patience.pause * 2 ** (failures - 1)))

    def attempt(self) -> None:
        """Ask for what is missing and write down what comes; return when that is all."""
        have = self.size
        with self.open(have) as response:
            if response.status_code == 416 or (response.status_code == 206 and not _starts_at(response, have)):
                self.forget()
                raise _Broken("the file on the server has changed")
            resumes = response.status_code == 206
            expected = _length(response.headers)
            if expected is not None:
                self.require_room(expected)
            self.note(response.headers)
            with self.part.open("ab" if resumes else "wb") as stream:
                self.copy(response, stream.write, total=None if expected is None else self.size + expected)
            if expected is not None and self.size != expected + (have if resumes else 0):
                raise _Broken("the connection was closed early")

    def copy(self, response: requests.Response, write: Callable[[bytes], object], *, total: int | None) -> None:
        start = told = time.monotonic()
        arrived, have = 0, self.size
        for chunk in self.chunks(response):
            write(chunk)
            arrived += len(chunk)
            now = time.monotonic()
            if now - start > self.patience.read and arrived < self.patience.slowest * (now - start):
                raise _Broken(f"only {arrived / (now - start):.0f} bytes per second arrived")
            if now - told > TELL_EVERY:
                told = now
                self.require_room(0)
                whole = "" if total is None else f" of {_megabytes(total)}"
                self.progress.step(f"downloaded {_megabytes(have + arrived)}{whole}")

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        """Yield what comes, as soon as it comes."""
        import urllib3.exceptions

        try:
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Broken(_reason(error)) from error

    @contextlib.contextmanager
    def open(self, have: int) -> Iterator[requests.Response]:
        """Send the request, follow redirects, and sort out refusals."""
        import requests

        url = self.url
        headers = {"Accept-Encoding": "identity"}  # a compressed transfer could not be resumed
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator := self.validator():
                headers["If-Range"] = validator
        with requests.Session() as session:
            for _ in range(REDIRECTS + 1):
                try:
                    response = session.get(
                        url,
                        headers=headers,
                        stream=True,
                        timeout=(self.patience.connect, self.patience.read),
                        allow_redirects=False,
                    )
                except requests.RequestException as error:
                    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
                        raise DownloadError(
                            f"{shown(url)} is not a valid URL: {error}.", tip="give a URL with http:// or https://"
                        ) from error
                    raise _Broken(_reason(error)) from error
                with response:
                    if not response.is_redirect:
                        self.require_success(response)
                        yield response
                        return
                    url = self.next_url(url, response.headers["Location"])
        raise DownloadError(f"{shown(self.url)} was redirected more than {REDIRECTS} times.")

    def next_url(self, url: str, location: str) -> str:
        target = urllib.parse.urljoin(url, location)
        scheme = urllib.parse.urlsplit(target).scheme
        if scheme not in ("http", "https") or (url.startswith("https:") and scheme == "http"):
            raise DownloadError(
                f"{shown(url)} redirects to {shown(target)}, which is less secure, so pidoc does not follow it.",
                tip="use that URL itself if you trust it; the SHA-256 is checked in any case",
            )
        return target

    def require_success(self, response: requests.Response) -> None:
        if response.status_code in (200, 206, 416):
            return
        said = f"the server answered {response.status_code} {response.reason}".rstrip()
        if response.status_code in _TRANSIENT:
            raise _Broken(said)
        raise DownloadError(
            f"Cannot download {shown(self.url)}: {said}.",
            tip="use another URL; the file might have been moved or withdrawn",
        )

    def require_room(self, size: int) -> None:
        status = os.statvfs(self.final.parent)
        free = status.f_bavail * status.f_frsize
        if size + ROOM > free:
            raise DownloadError(
                f"Downloading {shown(self.url)} needs {_megabytes(size + ROOM)} of free disk space, but "
                f"{self.final.parent} has {_megabytes(free)}.",
                tip=FREE_SPACE,
            )

    @property
    def size(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def hash(self) -> str:
        return image_file(self.part).sha256

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def note(self, headers: Mapping[str, str]) -> None:
        """Keep what tells this file of the server's from another one (RFC 9110, section 13.1.5: no weak tags)."""
        etag = headers.get("ETag", "")
        validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
        self.notes.write_text(json.dumps({"url": shown(self.url), "validator": validator}), encoding="utf-8")

    def validator(self) -> str:
        try:
            notes = documents.read(self.notes)
            return str(notes["validator"]) if notes["url"] == shown(self.url) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _starts_at(response: requests.Response, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _length(headers: Mapping[str, str]) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and "Content-Encoding" not in headers else None


def _reason(error: BaseException) -> str:
    """Return the innermost cause, which says more than the many wrappings around it."""
    while isinstance(inner := getattr(error, "reason", None) or (error.args[-1:] or (None,))[0], BaseException):
        error = inner
    text = str(error).rpartition("object at 0x")[2].partition(">: ")[2] or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
