"""The image cache: content-addressed, shared between processes, never half full.

::

    ROOT/images/KEY/          a finished image: read-only files and manifest.json, renamed into place
    ROOT/images/.new-KEY/     one that is being built, or was when its builder was killed
    ROOT/stamps/KEY.json      what the files looked like when they were last hashed
    ROOT/locks/KEY.lock       held by the builder
    ROOT/logs/KEY.log         what the last build printed
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_pidoc.errors import ChecksumMismatch, ImageError, PidocError
from pytest_pidoc.images.buildlog import BuildLog
from pytest_pidoc.images.image import MANIFEST, Image, ImageFile, Manifest
from pytest_pidoc.progress import Progress
from pytest_pidoc.sharing import locked
from pytest_pidoc.waiting import Deadline

__all__ = ["Cache", "Maker", "image_file"]

#: Fills an empty directory with an image's files and returns their manifest.
Maker = Callable[[Path, BuildLog], Manifest]

_NEW = ".new-"
_OLD = ".old-"
_SECRET = frozenset({"private_key"})  # roles whose files are their owner's alone


class Cache:
    """A directory of images, each under its content address. It may be deleted at any time that no node runs.

    Parameters
    ----------
    root
        The directory; made when first written to.
    lock_timeout
        Seconds to wait at most while another process builds the same image.
    """

    def __init__(self, root: Path, *, lock_timeout: float = 3600) -> None:
        self.root = root
        self.lock_timeout = lock_timeout

    def __repr__(self) -> str:
        return f"<Cache {self.root}>"

    def images(self) -> list[Image]:
        """Return all finished images, oldest first, without checking their files; `unreadable` has the others."""
        found = []
        for path in self._directories():
            with contextlib.suppress(ImageError):
                found.append(Image.read(path))
        return sorted(found, key=lambda image: (image.manifest.created, image.manifest.key))

    def unreadable(self) -> list[Path]:
        """Return the directories whose manifest is damaged, or was written by another version."""
        found = []
        for path in self._directories():
            try:
                Image.read(path)
            except ImageError:
                found.append(path)
        return found

    def find(self, key: str) -> Image | None:
        """Return the image of that *key*, checked, or ``None``.

        Files that look as they did when they were last hashed (size, time of change, inode) are not hashed again.

        Raises
        ------
        ChecksumMismatch
            A file is not what the manifest says.
        ImageError
            The manifest cannot be read.
        """
        path = self.root / "images" / key
        if not path.is_dir():
            return None
        image = Image.read(path)
        if self._stamped(key) != _look(image):
            self.verify(image)
        return image

    def verify(self, image: Image) -> None:
        """Hash every file of *image*, about 1 s per GB.

        Raises
        ------
        ChecksumMismatch
            A file is missing, or is not what the manifest says.
        """
        look = _look(image)
        for file in image.manifest.files.values():
            path = image.path / file.name
            try:
                found = image_file(path)
            except OSError as error:
                raise _mismatch(image, f"{path} cannot be read: {error.strerror}.") from error
            if found != file:
                raise _mismatch(
                    image,
                    f"{path} is not what its manifest says: SHA-256 {found.sha256} and {found.size} bytes, "
                    f"not {file.sha256} and {file.size} bytes.",
                )
        self._stamp(image, look)

    def build(
        self, key: str, make: Maker, *, what: str, progress: Progress | None = None, rebuild: bool = False
    ) -> Image:
        """Return the image of that *key*, making it first if it is not there.

        Parameters
        ----------
        key
            The content address: hex digits.
        make
            Called with an empty directory and a log, while this process alone builds that image.
        what
            What is built, for messages: ``debian:bookworm for arm64``.
        progress
            Hears of the steps.
        rebuild
            Make it even if it is there, e.g. because it is damaged.

        Raises
        ------
        ImageError
            It cannot be built, or the cache directory is not writable or full. Nothing half-made is left.
        """
        if not rebuild and (image := self.find(key)):
            return image
        with self._faults_named():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for path in (self.root, *(self.root / name for name in ("images", "stamps", "locks", "logs"))):
                path.mkdir(mode=0o700, exist_ok=True)
            with locked(
                self.root / "locks" / f"{key}.lock",
                purpose=f"building {what}",
                timeout=self.lock_timeout,
                progress=progress,
            ):
                if not rebuild and (image := self.find(key)):
                    return image  # somebody else built it while this process waited
                self._remove_leftovers(key)
                return self._make(key, make)

    def remove(self, path: Path) -> None:
        """Remove the image in the directory *path*; nodes that run from it keep their open files."""
        with self._faults_named():
            (self.root / "stamps" / f"{path.name}.json").unlink(missing_ok=True)
            self._discard(path)

    def _directories(self) -> list[Path]:
        return sorted(path for path in (self.root / "images").glob("[!.]*") if path.is_dir())

    def _make(self, key: str, make: Maker) -> Image:
        new, final = self.root / "images" / (_NEW + key), self.root / "images" / key
        new.mkdir(mode=0o700)
        try:
            manifest = dataclasses.replace(
                make(new, BuildLog(self.root / "logs" / f"{key}.log")),
                key=key,
                created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            )
            for role, file in manifest.files.items():
                (new / file.name).chmod(0o600 if role in _SECRET else 0o444)
            (new / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            (new / MANIFEST).chmod(0o444)
            _sync(*new.iterdir(), new)
            if final.exists():
                self._discard(final)
            new.rename(final)
            _sync(final.parent)
        except BaseException:  # also Ctrl-C: what is half made goes
            shutil.rmtree(new, ignore_errors=True)
            raise
        image = Image(final, manifest)
        self._stamp(image, _look(image))
        return image

    def _remove_leftovers(self, key: str) -> None:
        """Remove what killed builders left, but not what a live one is at."""
        for path in (self.root / "images").glob(".*-*"):
            other = path.name.rpartition("-")[2]
            with contextlib.suppress(PidocError):
                if other == key:
                    _remove(path)
                    continue
                with locked(self.root / "locks" / f"{other}.lock", purpose="removing leftovers", timeout=0):
                    _remove(path)

    def _discard(self, path: Path) -> None:
        old = path.with_name(_OLD + path.name)
        path.rename(old)  # at once, so that nobody finds half an image
        _remove(old)

    def _stamped(self, key: str) -> object:
        try:
            return json.loads((self.root / "stamps" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _stamp(self, image: Image, look: object) -> None:
        path = self.root / "stamps" / f"{image.path.name}.json"
        temporary = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a cache that is only readable is hashed each time
            temporary.write_text(json.dumps(look), encoding="utf-8")
            temporary.replace(path)

    @contextlib.contextmanager
    def _faults_named(self) -> Iterator[None]:
        """Turn what the file system refuses into an error that says what to do."""
        try:
            yield
        except OSError as error:
            place = f"The cache directory {self.root} cannot be used: {error.strerror}"
            raise ImageError(
                f"{place} ({error.filename})." if error.filename else f"{place}.",
                tip="make room or give another place with --pidoc-cache-dir DIR or PIDOC_CACHE_DIR",
            ) from error


def image_file(path: Path) -> ImageFile:
    """Return a file's name, size and SHA-256.

    Raises
    ------
    OSError
        It cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return ImageFile(path.name, size, digest.hexdigest())


def _look(image: Image) -> dict[str, list[int] | None]:
    """Return what a changed file would hardly keep: its size, its time of change in ns, and its inode."""
    look: dict[str, list[int] | None] = {}
    for name in (MANIFEST, *(file.name for file in image.manifest.files.values())):
        try:
            status = (image.path / name).stat()
            look[name] = [status.st_size, status.st_mtime_ns, status.st_ino]
        except OSError:
            look[name] = None
    return look


def _mismatch(image: Image, text: str) -> ChecksumMismatch:
    return ChecksumMismatch(text, tip=f"pidoc build --rebuild {image.manifest.recipe}")


def _remove(path: Path) -> None:
    """Remove a directory in which a command of a killed builder may still write for a moment."""
    deadline = Deadline(10, interval=0.1)
    while True:
        try:
            return shutil.rmtree(path)
        except OSError:
            if deadline.expired:
                raise
        deadline.pause()


def _sync(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
