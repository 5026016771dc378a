"""Locks between processes: a waiting process says which process holds the lock, and every wait has a limit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_pidoc.errors import PidocError
from pytest_pidoc.host import documents
from pytest_pidoc.values.progress import Progress

__all__ = ["locked", "try_lock"]


@contextlib.contextmanager
def locked(path: Path, *, purpose: str, timeout: float, progress: Progress | None = None) -> Iterator[None]:
    """Hold the lock file *path* for the length of a ``with`` block.

    The lock ends with its holder, even by SIGKILL.

    Parameters
    ----------
    path
        The lock file; its directory must exist. It stays when the lock is released.
    purpose
        What the holder does, for messages of waiting processes: ``building debian:bookworm for arm64``.
    timeout
        Seconds to wait at most; 0 means not to wait.
    progress
        Is called if the process has to wait.

    Raises
    ------
    PidocError
        Another process still holds it after *timeout* seconds; the message names it.
    OSError
        The lock file cannot be created, or the file system has no locks, e.g. NFS without its lock service.
    """
    lock = FileLock(path)
    holder = path.with_suffix(".holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _require_locks(path)
        if timeout > 0 and progress is not None:
            progress.step(f"waiting for {_read(holder)}, at most {timeout:.0f} s")
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            waited = f" after {timeout:.0f} s" if timeout else ""
            raise PidocError(
                f"The lock is still held by {_read(holder)}{waited}.",
                look=str(path),
                tip="wait until that process has finished, or end it",
            ) from error
    try:
        holder.unlink(missing_ok=True)  # left by a killed holder
        holder.write_text(f"process {os.getpid()} ({purpose})\n", encoding="utf-8")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                holder.unlink()
    finally:
        lock.release()


def try_lock(descriptor: int, *, shared: bool) -> bool:
    """Lock an open file without waiting, and tell whether that worked. The lock ends when the file is closed.

    Raises
    ------
    OSError
        The file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _require_locks(path: Path) -> None:
    """Raise ``OSError`` if files cannot be locked: older versions of filelock report that as a held lock."""
    with path.open("rb") as file:
        try:
            try_lock(file.fileno(), shared=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def _read(holder: Path) -> str:
    # A killed holder leaves its name behind, and a new one might not have written its own yet: both last only a moment.
    try:
        return documents.content(holder).decode("utf-8", "replace").strip()[:200] or "another process"
    except (OSError, ValueError):
        return "another process"
