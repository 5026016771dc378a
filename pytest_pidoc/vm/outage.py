"""A node that is off: a note in its directory tells every process why, and its port is kept for it meanwhile."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.host import documents, ports
from pytest_pidoc.values.checks import is_number
from pytest_pidoc.values.files import OFF

__all__ = ["Outage"]

_CALL = re.compile(r"[a-z_]{1,20}\(\)( failed)?")
_LATEST = 1e11  # seconds since the epoch, which a date can still be made of


@dataclass(frozen=True)
class _Note:
    """What is written down about a node that was switched off.

    Attributes
    ----------
    by
        The call that did it: ``power_cut()``, or ``power_on() failed``.
    at
        When: seconds since the epoch.
    clean
        Whether everything that the guest had written was on its disk then.
    """

    by: str
    at: float
    clean: bool

    @classmethod
    def read(cls, path: Path) -> _Note | None:
        """Read the note at *path*; without one, or if it is damaged, return ``None``."""
        try:
            note = cls(**documents.read(path))
            # On the engine docker, QEMU can write to the node's directory, and what it wrote gets to a terminal.
            valid = _CALL.fullmatch(note.by) and is_number(note.at, 0, _LATEST) and isinstance(note.clean, bool)
        except (OSError, ValueError, TypeError):
            return None
        return note if valid else None


class Outage:
    """The time in which the node in *directory* is off. Any process can begin it, and any other can end it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / OFF
        self._held: socket.socket | None = None

    @property
    def reason(self) -> str | None:
        """``off since power_cut() at 12:03:04``; ``None`` if nobody has switched the node off."""
        note = _Note.read(self._path)
        return None if note is None else f"off since {note.by} at {time.strftime('%H:%M:%S', time.localtime(note.at))}"

    @property
    def clean(self) -> bool:
        """Whether the guest has shut down in order, so that everything that it had written is on its disk."""
        note = _Note.read(self._path)
        return note is not None and note.clean

    def begin(self, by: str, *, clean: bool = False) -> None:
        """Write down that the node is off because of *by*, ``power_cut()``; see `clean`."""
        with contextlib.suppress(FileNotFoundError):  # the cluster has just been taken down
            documents.write(self._path, json.dumps(asdict(_Note(by, time.time(), clean))), mode=0o600)

    def end(self) -> None:
        """Write down that the node runs again."""
        self.release_port()
        self._path.unlink(missing_ok=True)

    def hold_port(self, endpoint: Endpoint) -> None:
        """Reserve the node's port until its QEMU starts again."""
        self._held = ports.hold(endpoint.host, endpoint.port)

    def release_port(self) -> None:
        """Release the port."""
        if self._held is not None:
            self._held.close()
            self._held = None
