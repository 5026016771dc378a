"""Who uses an image: told by the kernel's locks, so it holds for every user, every TMPDIR and every container here.

Two kinds of locks on this file system say that an image is in use, and both end with their holders:

- a shared ``flock`` on ``locks/KEY.use``, which a start holds, and then the cluster's reaper until the cluster ends;
- QEMU's own locks on the disks that it has open. Nodes that outlive their owner have no reaper, but these.

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

__all__ = ["claimed", "hold", "last_used"]

PATIENCE = 30.0  # seconds that whoever removes an image may take for it

# struct flock of Linux on machines of 64 bits: type, whence, start, length (0: to the end), process.
_FLOCK = "hhqqi4x"


def hold(root: Path, image: Path) -> int | None:
    """Let nobody remove the image in the directory *image* as long as the descriptor that is returned is open.

    Children that inherit it hold the image, too.

    Returns
    -------
    The descriptor; ``None`` for what is not in the cache *root*, or if that cannot be written to or has no locks.

    Raises
    ------
    ImageError
        The image was removed meanwhile.
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
    except OSError:  # a cache that others fill, or a full disk: the nodes may run all the same
        pass
    if not image.exists():
        if descriptor is not None:
            os.close(descriptor)
        raise ImageError(f"The image in {image} was removed meanwhile.", tip="the same again: it is made anew")
    return descriptor


@contextlib.contextmanager
def claimed(root: Path, image: Path) -> Iterator[None]:
    """Let nobody begin to use an image for the length of a ``with`` block.

    Raises
    ------
    ImageInUse
        Nodes run from it, or it is not to be found out whether they do.
    OSError
        The lock file cannot be made.
    """
    descriptor = _open(root, image)
    try:
        try:
            free = try_lock(descriptor, shared=False)
        except OSError as error:
            raise ImageInUse(
                f"Whether {image} is in use cannot be told: {error.strerror}.",
                tip="end all nodes, then remove it yourself; or a cache directory on a disk that can lock files",
            ) from error
        if not free or any(_is_open_in_qemu(path) for path in _files(image)):
            raise ImageInUse(
                f"The image in {image} is in use.", tip="pidoc ps shows your clusters, pidoc down ends them"
            )
        yield
    finally:
        os.close(descriptor)


def last_used(root: Path, image: Path) -> float | None:
    """Return when nodes were last started from an image, in seconds since 1970; ``None`` if that is not known."""
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
    os.utime(descriptor, (0, 0))  # to ask whether an image is in use is no use of it
    return descriptor


def _files(image: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for path in image.iterdir():
            if stat.S_ISREG(path.stat().st_mode):
                yield path


def _is_open_in_qemu(path: Path) -> bool:
    """Tell whether somebody has the file locked as QEMU does it with each disk: see docs/system/images of QEMU."""
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
