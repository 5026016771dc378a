"""Reads small files that this package has written, and refuses damaged ones."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["content", "parse", "read"]

LARGEST = 16 << 20  # bytes: the largest is an image's manifest, with 50,000


def read(path: Path) -> Any:
    """Return the content of the JSON file at *path*.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not a regular file, too large, or not JSON.
    """
    return parse(content(path))


def content(path: Path) -> bytes:
    """Return the bytes of the file at *path*.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not a regular file, or too large.
    """
    with open(path, "rb", opener=_open) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > LARGEST:
            raise ValueError(f"it has {status.st_size} bytes, and at most {LARGEST} are supported")
        return stream.read()


def parse(text: str | bytes) -> Any:
    """Return the content of a JSON text.

    Raises
    ------
    ValueError
        It is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in the file's place would block for ever
