"""The restarts of a guest while its QEMU runs: a reboot, a watchdog, a kernel that restarts after its panic."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.host import documents
from pytest_pidoc.qemu.events import EventLog
from pytest_pidoc.values.files import RESTARTS_HANDLED

__all__ = ["Restart", "Restarts"]

#: QEMU's words for why a machine was reset, in ours.
_REASONS = {
    "guest-reset": "by the guest itself",
    "guest-panic": "after a kernel panic",
    "host-qmp-system-reset": "by a command of QEMU's monitor",
}
WATCHDOG = "by its watchdog"
SOON = 1.0  # seconds from a watchdog's event to the reset


@dataclass(frozen=True)
class Restart:
    """One restart.

    Attributes
    ----------
    at
        When the machine was reset: seconds since the epoch, on the host's clock.
    why
        ``by the guest itself``, as far as QEMU knows.
    """

    at: float
    why: str

    def __str__(self) -> str:
        return f"restarted at {time.strftime('%H:%M:%S', time.localtime(self.at))} {self.why}"


class Restarts:
    """The restarts of the guest in *directory*, and after how many of them the node was brought up again.

    That number is kept in the directory, with the length that the serial log had then, because the next process that
    uses the node has to know them.
    """

    def __init__(self, directory: Path) -> None:
        self._log = EventLog(directory)
        self._handled = directory / RESTARTS_HANDLED
        self._all: list[Restart] = []
        self._watchdog = 0.0

    def all(self) -> list[Restart]:
        """Return the restarts since QEMU was started, oldest first."""
        for event in self._log.new():
            if event.name == "WATCHDOG":
                self._watchdog = event.at
            elif event.name == "RESET":
                reason = str(event.data.get("reason", "guest-reset"))
                barked = event.at - self._watchdog < SOON
                self._all.append(Restart(event.at, WATCHDOG if barked else _REASONS.get(reason, f"({reason})")))
        return self._all

    def unhandled(self) -> list[Restart]:
        """Return the restarts after which the node was not brought up again, oldest first."""
        return self.all()[self.handled()[0] :]

    def handled(self) -> tuple[int, int]:
        """Return after how many restarts the node was brought up, and where its boot begins in the serial log."""
        try:
            number, log = map(int, self._handled.read_bytes().split())
        except (OSError, ValueError):  # it has booted once
            return 0, 0
        return number, log

    def handle(self, number: int, log: int) -> None:
        """Record that the node was brought up after *number* restarts, and where that boot begins in the serial log."""
        if self.handled() != (number, log):
            documents.write(self._handled, f"{number} {log}", mode=0o600)
