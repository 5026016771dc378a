"""Small files of this package: written completely or not at all, and read completely or refused.

A file might have been damaged since it was written, and another process might read it while it is replaced.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

__all__ = ["content", "parse", "read", "tail", "write"]

LARGEST = 16 << 20  # bytes: the largest is an image's manifest, with 50,000
END = 8000  # of a log, in bytes: what `tail` looks at


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


def tail(log: Path | str, lines: int = 15) -> str:
    """Return the last lines of a log, or of what a program has printed, without empty ones; "" without a log.

    Each state of a progress bar counts as a line. Of a log with very long lines, the last 8000 bytes are looked at.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if isinstance(log, Path):
        try:
            with log.open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - END))
                log = stream.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
    kept = [line for line in log[-END:].replace("\r", "\n").splitlines() if line.strip()]
    return "\n".join(kept[-lines:])


def write(
    path: Path, content: str | bytes, *, mode: int = 0o666, synced: bool = False, draft: Path | None = None
) -> None:
    """Put *content* into the file at *path*: whoever reads it meanwhile gets the old file or the new one.

    Parameters
    ----------
    path
        The file, which need not exist.
    content
        What it contains afterwards; a text is encoded in UTF-8.
    mode
        Its permissions, less the umask.
    synced
        Whether the content is on the disk before it replaces the old one: then a power cut leaves one of the two.
    draft
        Where it is written first; by default a name beside *path* that no other thread uses.

    Raises
    ------
    OSError
        It cannot be written; the old file is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            if synced:
                stream.flush()
                os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in the file's place would block for ever
