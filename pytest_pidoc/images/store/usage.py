"""Whether an image is in use: read from the kernel's locks, so for every user, TMPDIR and container of this host.

Two kinds of locks on this file system mark an image as used, and both end with their holders:

- a shared ``flock`` on ``locks/KEY.use``, which a start holds, and then the cluster's reaper until the cluster ends;
- QEMU's own locks on the disks that it has open. Nodes that outlive their owner have no reaper, only these.

What removes or replaces an image takes the first one exclusively, and looks for the second.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from pytest_pidoc.errors import ImageError, ImageInUse
from pytest_pidoc.host.locks import try_lock
from pytest_pidoc.values.deadline import Deadline

__all__ = ["UseUnknown", "claimed", "hold", "last_used"]

PATIENCE = 30.0  # seconds to wait at most for whoever removes the image

# struct flock of Linux on machines of 64 bits: type, whence, start, length (0: to the end), process.
_FLOCK = "hhqqi4x"


class UseUnknown(ImageInUse):
    """The file system has no locks, so that an image has to be taken for one that is in use."""


def hold(root: Path, image: Path) -> int | None:
    """Prevent the removal of the image in the directory *image* while the returned descriptor is open.

    Children that inherit it hold the image, too.

    Returns
    -------
    The descriptor; ``None`` for an image outside the cache *root*, or if that is read-only or has no locks.

    Raises
    ------
    ImageError
        Another process has just removed the image.
    """
    if image.parent != root / "images":
        return None
    descriptor = None
    deadline = Deadline(PATIENCE)
    try:
        descriptor = _open(root, image)
        while not try_lock(descriptor, shared=True) and not deadline.expired:
            deadline.pause()
        os.utime(descriptor)  # see last_used()
    except OSError:  # a cache that others fill, or a full disk: the nodes can run without the lock
        pass
    if not image.exists():
        if descriptor is not None:
            os.close(descriptor)
        raise ImageError(
            f"Another process has just removed the image in {image}.",
            tip="run the command again; the image will be rebuilt",
        )
    return descriptor


@contextlib.contextmanager
def claimed(root: Path, image: Path) -> Iterator[None]:
    """Prevent new uses of an image for the length of a ``with`` block.

    Raises
    ------
    ImageInUse
        Nodes are running from it, or pidoc cannot find out whether they are.
    OSError
        The lock file cannot be made.
    """
    descriptor = _open(root, image)
    try:
        try:
            free = try_lock(descriptor, shared=False)
        except OSError as error:
            raise UseUnknown(
                f"Cannot find out whether {image} is in use: {error.strerror}.",
                tip="end all nodes and remove it yourself, or use a cache directory on a disk that supports file locks",
            ) from error
        if not free or any(_is_open_in_qemu(path) for path in _files(image)):
            raise ImageInUse(
                f"Nodes are running from the image in {image}.",
                tip="list your clusters with pidoc ps and end them with pidoc down",
            )
        yield
    finally:
        os.close(descriptor)


def last_used(root: Path, image: Path) -> float | None:
    """Return when nodes were last started from an image, in seconds since 1970; ``None`` if unknown."""
    try:
        return _path(root, image).stat().st_mtime or None
    except OSError:
        return None


def _path(root: Path, image: Path) -> Path:
    return root / "locks" / f"{image.name}.use"


def _open(root: Path, image: Path) -> int:
    path = _path(root, image)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR)
    os.utime(descriptor, (0, 0))  # asking whether an image is in use must not count as a use
    return descriptor


def _files(image: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for path in image.iterdir():
            if stat.S_ISREG(path.stat().st_mode):
                yield path


def _is_open_in_qemu(path: Path) -> bool:
    """Tell whether a process has locked the file as QEMU locks each disk: see docs/system/images of QEMU."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
    except OSError:  # no such locks there, so QEMU has none either
        return False
    finally:
        os.close(descriptor)
