"""Leases: who uses a cluster that several processes share, alone or together with others.

A lease is a lock on a file of the cluster's directory, which the kernel takes back when its holder ends in whatever
way. Beside it each holder leaves a note while it uses the cluster. A note whose writer is gone tells that the cluster
was not given back cleanly: nobody knows what state its nodes are in.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pytest_pidoc.host import documents, processes
from pytest_pidoc.host.locks import try_lock

__all__ = ["Lease", "abandoned_by", "retire", "users"]

LOCK = "lease.lock"
NOTES = "lease."  # and 8 hex digits: the note of one holder
LAST = "lease-last"  # which lease was the last one that nobody shared
SPENT = "spent"


class Lease:
    """The right to use the cluster in *directory* until `close`; see `take`."""

    def __init__(self, directory: Path, descriptor: int, *, shared: bool) -> None:
        self.directory = directory
        self.shared = shared
        """Whether others can have one at the same time."""
        self._descriptor = descriptor
        self._note = directory / f"{NOTES}{secrets.token_hex(4)}"

    @classmethod
    def take(cls, directory: Path, user: str, *, shared: bool) -> Lease | None:
        """Take a lease on a cluster, or return ``None``: others have one, or the cluster is gone or given up.

        Parameters
        ----------
        directory
            The cluster's.
        user
            For whom it is: a test's name.
        shared
            Whether others can have one at the same time.
        """
        lease = cls._lock(directory, shared=shared)
        if lease is None:
            return None
        try:
            if (directory / SPENT).exists():
                lease.close()
                return None
            documents.write(lease._note, json.dumps({"holder": processes.own(), "user": user}))
        except OSError:  # the directory has just gone
            lease.close()
            return None
        return lease

    @classmethod
    def to_end(cls, directory: Path) -> Lease | None:
        """Take a lease to end the cluster, given up or not; ``None`` if somebody uses it or it is gone."""
        return cls._lock(directory, shared=False)

    @classmethod
    def _lock(cls, directory: Path, *, shared: bool) -> Lease | None:
        try:
            descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        try:
            locked = try_lock(descriptor, shared=shared)
        except OSError:
            os.close(descriptor)
            raise
        if not locked:
            os.close(descriptor)
            return None
        return cls(directory, descriptor, shared=shared)

    @property
    def is_torn(self) -> bool:
        """Whether somebody who had one has ended without giving it back."""
        return bool(abandoned_by(self.directory))

    def share(self) -> bool:
        """Let others have one, too; tell whether this one still holds."""
        self.shared = try_lock(self._descriptor, shared=True)
        return self.shared

    @property
    def last(self) -> str:
        """Which lease was the last one that nobody shared, as `sign` wrote it."""
        try:
            return (self.directory / LAST).read_text(encoding="ascii")
        except OSError:
            return ""

    def sign(self) -> None:
        """Let others know that the cluster was used by somebody alone since they had it."""
        (self.directory / LAST).write_text(self._note.name, encoding="ascii")

    def close(self) -> None:
        """Give the cluster back; its directory may be gone."""
        if self._descriptor >= 0:
            self._note.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def users(directory: Path) -> list[str]:
    """Return for whom the cluster in *directory* is used now: names of tests."""
    return [user for user, alive in _notes(directory) if alive]


def abandoned_by(directory: Path) -> list[str]:
    """Return who has ended without giving back the cluster in *directory*: names of tests."""
    return [user for user, alive in _notes(directory) if not alive]


def retire(directory: Path) -> None:
    """Let nobody get a lease on that cluster any more; it is no error when it is gone."""
    try:
        (directory / SPENT).touch()
    except FileNotFoundError:
        return


def _notes(directory: Path) -> list[tuple[str, bool]]:
    """Return each holder's user, and whether the holder lives."""
    found = []
    for path in directory.glob(f"{NOTES}*"):
        if path.name == LOCK:
            continue
        try:
            note = documents.read(path)
            found.append((str(note["user"]), processes.is_alive(note["holder"])))
        except FileNotFoundError:  # given back meanwhile
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # its writer was killed in the middle
            found.append(("?", False))
    return found
