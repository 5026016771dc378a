"""Stamps: what a file looked like when it was last hashed, so that a gigabyte is not hashed at every start.

A look is a file's size, time of change and inode, and a few of its blocks. The blocks are for file systems whose
times are coarse or whose inodes are made up, and for what a crash leaves: a file of the right size full of zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

from pytest_pidoc.host import documents

__all__ = ["look", "read", "write"]

BLOCKS = 8  # of each file: the first, the last, and others evenly between
BLOCK = 4096  # bytes


def look(path: Path) -> list[int | str] | None:
    """Return what a change of the file would almost certainly alter; ``None`` if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in a file's place would block for ever
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        digest = hashlib.sha256()
        for offset in _offsets(status.st_size):
            digest.update(os.pread(descriptor, BLOCK, offset))
        return [status.st_size, status.st_mtime_ns, status.st_ino, digest.hexdigest()[:16]]
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read(stamp: Path) -> object:
    """Return what was written to *stamp*; ``None`` if it does not exist or is damaged."""
    try:
        return documents.read(stamp)
    except (OSError, ValueError):
        return None


def write(stamp: Path, value: object) -> None:
    """Write a stamp atomically; if it cannot be written, files are hashed each time."""
    # One name for all writers: what a killed one leaves, the next one replaces. Two at the same time can spoil a stamp,
    # and then files are hashed once more.
    with contextlib.suppress(OSError):
        documents.write(stamp, json.dumps(value), draft=stamp.with_suffix(".new"))


def _offsets(size: int) -> list[int]:
    last = max(0, size - BLOCK)
    return sorted({last * number // (BLOCKS - 1) for number in range(BLOCKS)})
