"""Small files that this package has written, to which anything may have happened since: read whole, or refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["content", "parse", "read"]

LARGEST = 16 << 20  # bytes: the largest is an image's manifest, with 50,000


def read(path: Path) -> Any:
    """Return what the JSON file at *path* says.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no file, too large, or no JSON.
    """
    return parse(content(path))


def content(path: Path) -> bytes:
    """Return what is in the file at *path*.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no file, or too large.
    """
    with open(path, "rb", opener=_open) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if status.st_size > LARGEST:
            raise ValueError(f"it has {status.st_size} bytes, which is too much")
        return stream.read()


def parse(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises
    ------
    ValueError
        It is none, or is nested more deeply than any of ours.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # in the place of a file may be a pipe, which nobody writes to
