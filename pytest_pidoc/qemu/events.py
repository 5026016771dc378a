"""What a QEMU reports by itself: its events, which it writes to a file in the node's directory.

QEMU serves one client of its monitor at a time, and events that nobody reads meanwhile are lost. So it has a second
monitor whose input and output are files: every process can read what happened, at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_pidoc.host import documents
from pytest_pidoc.values.files import EVENTS, RESTARTS_HANDLED

__all__ = ["Event", "EventLog", "arguments", "prepare"]

_IN, _OUT = f"{EVENTS}.in", f"{EVENTS}.out"  # the names that QEMU's pipe makes of one


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes
    ----------
    name
        ``RESET``, for example.
    at
        When it happened: seconds since the epoch, on the host's clock.
    data
        What QEMU tells about it.
    """

    name: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)


def arguments() -> list[str]:
    """Return the part of QEMU's command line that makes it write its events."""
    return ["-chardev", f"pipe,id=events0,path={EVENTS}", "-mon", "chardev=events0,mode=control"]


def prepare(directory: Path) -> None:
    """Write the files in a node's directory that QEMU opens when it starts; a former QEMU's events are gone."""
    documents.write(directory / _IN, '{"execute": "qmp_capabilities"}\n', mode=0o600)
    documents.write(directory / _OUT, "", mode=0o600)
    (directory / RESTARTS_HANDLED).unlink(missing_ok=True)


class EventLog:
    """The events of the QEMU in *directory*, oldest first; each is returned once."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _OUT
        self._read = 0

    def new(self) -> list[Event]:
        """Return the events since the last call."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except FileNotFoundError:  # the node is of another version, or its directory is gone
            return []
        whole = content[: content.rfind(b"\n") + 1]  # QEMU might be writing the last line
        self._read += len(whole)
        return [event for line in whole.splitlines() if (event := _event(line)) is not None]


def _event(line: bytes) -> Event | None:
    """Return the event of a line; ``None`` if it is something else, such as QEMU's greeting."""
    try:
        told: Any = documents.parse(line)
        time = told["timestamp"]
        return Event(str(told["event"]), time["seconds"] + time["microseconds"] / 1e6, dict(told.get("data", {})))
    except (ValueError, TypeError, KeyError):
        return None
