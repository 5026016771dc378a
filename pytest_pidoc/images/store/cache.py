"""The image cache: content-addressed, shared between processes, never with a half-built image.

::

    ROOT/images/KEY/          a finished image: read-only files and manifest.json, renamed into place
    ROOT/images/.new-KEY/     an image that is being built, or whose builder was killed
    ROOT/stamps/KEY.json      what the files looked like when they were last hashed
    ROOT/locks/KEY.lock       held by the builder
    ROOT/locks/KEY.use        held by whoever runs nodes from it, see `pytest_pidoc.images.store.usage`
    ROOT/logs/KEY.log         what the last build printed
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import os
import pwd
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import ChecksumMismatch, ImageError, PidocError
from pytest_pidoc.host.locks import locked
from pytest_pidoc.images.store import stamps, usage
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.image import MANIFEST, Image, ImageFile, Manifest
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress

__all__ = ["FREE_SPACE", "IDENTITY", "Cache", "Maker", "cache_errors", "image_file", "repair"]

IDENTITY = "identity"  # the role of a saved node's identity, which has its private host keys

#: Fills an empty directory with an image's files and returns their manifest.
Maker = Callable[[Path, BuildLog], Manifest]

#: The tip of whoever cannot write to the cache directory.
FREE_SPACE = "free disk space, or choose another directory with --pidoc-cache-dir DIR or PIDOC_CACHE_DIR"

_NEW = ".new-"
_OLD = ".old-"
_SECRET = frozenset({"private_key", IDENTITY})  # roles, in whatever folder, whose files are their owner's alone


class Cache:
    """A directory of images, each under its content address. You can delete it whenever no node is running.

    It belongs to one user, because it holds private keys that no other user must read.

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
        """Return all finished images, oldest first, without checking their files; `unreadable` has the others.

        Raises
        ------
        ImageError
            The directory cannot be read, e.g. because it belongs to another user.
        """
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

        Files that look as they did when they were last hashed (size, time of change, inode, some blocks) are not
        hashed again.

        Raises
        ------
        ChecksumMismatch
            A file does not match the manifest.
        ImageError
            The manifest cannot be read, or the cache belongs to another user.
        """
        path = self.root / "images" / key
        with cache_errors(self.root):
            if not path.is_dir():
                return None
            try:
                image = Image.read(path)
            except ImageError:
                if path.exists():
                    raise
                return None  # it was just removed
            if stamps.read(self._stamp(key)) != _look(image):
                self.verify(image)
        return image

    def verify(self, image: Image) -> None:
        """Hash every file of *image*, about 1 s per GB.

        Raises
        ------
        ChecksumMismatch
            A file is missing, or does not match the manifest.
        """
        look = _look(image)
        for file in image.manifest.files.values():
            path = image.path / file.name
            try:
                found = image_file(path)
            except PermissionError as error:
                with cache_errors(self.root):
                    raise error
            except OSError as error:
                raise _mismatch(image, f"Cannot read the image file {path}: {error.strerror}.") from error
            if (found.size, found.sha256) != (file.size, file.sha256):
                raise _mismatch(
                    image,
                    f"{path} does not match its manifest: it has {found.size} bytes and SHA-256 {found.sha256}, "
                    f"but must have {file.size} bytes and SHA-256 {file.sha256}.",
                )
        stamps.write(self._stamp(image.path.name), look)

    def build(
        self, key: str, make: Maker, *, what: str, progress: Progress | None = None, rebuild: bool = False
    ) -> Image:
        """Return the image of that *key*, building it first if the cache does not have it.

        Parameters
        ----------
        key
            The content address: hex digits.
        make
            Called with an empty directory and a log, while this process alone builds that image.
        what
            What is built, for messages: ``debian:bookworm for arm64``.
        progress
            Is called with each step.
        rebuild
            Build it even if the cache has it, e.g. because it is damaged.

        Raises
        ------
        ImageError
            It cannot be built, or the cache directory is not writable or full. No half-built image is left.
        ImageInUse
            It would be rebuilt, but nodes are running from it.
        """
        if not rebuild and (image := self.find(key)):
            return image
        with cache_errors(self.root):
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
                if (path := self.root / "images" / key).exists():
                    with usage.claimed(self.root, path):
                        pass  # fail now rather than after the build
                return self._make(key, make)

    def remove(self, path: Path, *, dry_run: bool = False) -> None:
        """Remove the image in the directory *path*; with *dry_run* only check whether it could be removed.

        Raises
        ------
        ImageInUse
            Nodes are running from it.
        PidocError
            Another process is building it.
        """
        with cache_errors(self.root), self._locked(path.name), usage.claimed(self.root, path):
            if dry_run:
                return
            self._remove_leftovers(path.name)
            self._stamp(path.name).unlink(missing_ok=True)
            self._discard(path)

    def leftovers(self) -> list[Path]:
        """Return unfinished builds: those of killed builders and those that are still being built."""
        return [path for path in self._entries() if path.match(".*-*")]

    def remove_leftover(self, path: Path, *, dry_run: bool = False) -> None:
        """Remove what a killed builder left; with *dry_run* only check whether it could be removed.

        Raises
        ------
        PidocError
            Its builder is still running.
        """
        with cache_errors(self.root), self._locked(_key(path)):
            if not dry_run:
                _remove(path)

    def _directories(self) -> list[Path]:
        return [path for path in self._entries() if not path.name.startswith(".") and path.is_dir()]

    def _entries(self) -> list[Path]:
        with cache_errors(self.root), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted((self.root / "images").iterdir())
        return []

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
                (new / file.name).chmod(0o600 if role.rpartition("/")[2] in _SECRET else 0o444)
            (new / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            (new / MANIFEST).chmod(0o444)
            _sync(*new.rglob("*"), new)
            with contextlib.ExitStack() as stack:
                if final.exists():
                    stack.enter_context(usage.claimed(self.root, final))
                    self._discard(final)
                new.rename(final)
            _sync(final.parent)
        except BaseException:  # also Ctrl-C: what is half made goes
            shutil.rmtree(new, ignore_errors=True)
            raise
        image = Image(final, manifest)
        stamps.write(self._stamp(key), _look(image))
        return image

    def _remove_leftovers(self, key: str) -> None:
        """Remove what killed builders left, but not the work of live ones; this process is the builder of *key*."""
        for path in self.leftovers():
            if _key(path) == key:
                _remove(path)
                continue
            with contextlib.suppress(PidocError):
                self.remove_leftover(path)

    def _discard(self, path: Path) -> None:
        old = path.with_name(_OLD + path.name)
        path.rename(old)  # one atomic step, so that nobody finds half an image
        _remove(old)

    def _stamp(self, key: str) -> Path:
        return self.root / "stamps" / f"{key}.json"

    def _locked(self, key: str) -> AbstractContextManager[None]:
        """Take a builder's lock without waiting."""
        (self.root / "locks").mkdir(mode=0o700, exist_ok=True)
        return locked(self.root / "locks" / f"{key}.lock", purpose=f"removing the image {key[:12]}", timeout=0)


@contextlib.contextmanager
def cache_errors(directory: Path) -> Iterator[None]:
    """Turn an `OSError` in a cache directory into an `ImageError` that says what to do."""
    try:
        yield
    except OSError as error:
        what = f"Cannot use the cache directory {directory}: {error.strerror or error}"
        what += f" ({error.filename})." if error.filename else "."
        tip = FREE_SPACE
        if isinstance(error, PermissionError):
            what += f" {_owners(directory, error.filename)}"
            tip = "choose a directory of your own with --pidoc-cache-dir DIR or PIDOC_CACHE_DIR; each user needs one"
        raise ImageError(what, tip=tip) from error


def image_file(path: Path) -> ImageFile:
    """Return a file's name, size and SHA-256.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))  # but a pipe, or a device without an end
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return ImageFile(path.name, size, digest.hexdigest())


def repair(image: Image) -> str:
    """Return the command that rebuilds a damaged image, or removes it so that it is rebuilt when needed."""
    recipe = image.manifest.recipe
    models = (model.name for model in MODELS.values() if model.architecture == image.manifest.architecture)
    if re.fullmatch(r"debian:[\w,]+", recipe) and (model := next(models, None)):
        return f"pidoc build --rebuild --image {recipe} --model {model}"
    return f"rm -r {shlex.quote(str(image.path))}"


def _look(image: Image) -> dict[str, Any]:
    names = (MANIFEST, *(file.name for file in image.manifest.files.values()))
    return {name: stamps.look(image.path / name) for name in names}


def _mismatch(image: Image, text: str) -> ChecksumMismatch:
    return ChecksumMismatch(text, tip=f"run {repair(image)}")


def _key(leftover: Path) -> str:
    return leftover.name.rpartition("-")[2]


def _owners(root: Path, filename: object) -> str:
    """Name the owner of the first directory or file that belongs to another user, if it can be found out."""
    path = Path(os.fsdecode(filename)) if isinstance(filename, (str, bytes)) else root
    for place in (root, path):
        with contextlib.suppress(OSError):
            if (owner := place.stat().st_uid) != os.geteuid():
                return f"{place} belongs to {_name(owner)}, but pidoc runs as {_name(os.geteuid())}."
    return f"pidoc runs as {_name(os.geteuid())}."


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _remove(path: Path) -> None:
    """Remove a directory in which a command of a killed builder may still write for a moment."""
    if path.is_symlink() or not path.is_dir():  # what came in its place
        return path.unlink(missing_ok=True)
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
