"""Faults that a test injects: each can be undone, and is undone at the latest when its test ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Fault", "FaultLog"]


class Fault:
    """A fault that lasts from its creation until `undo`; a context manager that undoes it at its end.

    Parameters
    ----------
    what
        What is broken, in a few words: ``partition pi-1 | pi-2, pi-3``.
    undo
        Ends the fault; it is called once.
    """

    def __init__(self, what: str, undo: Callable[[], None]) -> None:
        self.what = what
        """What is broken, in a few words."""
        self.began = time.time()
        """When it began, in seconds since the epoch."""
        self.ended: float | None = None
        """When it was undone; ``None`` while it lasts."""
        self._undo = undo
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether it has not been undone yet."""
        return self.ended is None

    def undo(self) -> None:
        """End the fault. Calling it again does nothing."""
        with self._lock:
            if self.ended is None:
                self._undo()
                self.ended = time.time()

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __str__(self) -> str:
        """Return what went wrong and when: ``12:03:04.123 partition pi-1 | pi-2, undone after 3.210 s``."""
        milliseconds = int(self.began % 1 * 1000)
        clock = time.strftime("%H:%M:%S", time.localtime(self.began))
        lasted = "not undone" if self.ended is None else f"undone after {self.ended - self.began:.3f} s"
        return f"{clock}.{milliseconds:03d} {self.what}, {lasted}"

    def __repr__(self) -> str:
        return f"<Fault {self}>"


class FaultLog:
    """The faults of a cluster, in the order in which they were injected."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, what: str, undo: Callable[[], None]) -> Fault:
        """Record a fault that has just begun; see `Fault` for the parameters."""
        fault = Fault(what, undo)
        with self._lock:
            self._faults.append(fault)
        return fault

    def undo_all(self) -> list[Exception]:
        """Undo all active faults, the latest first; return the errors."""
        errors = []
        for fault in reversed(self.all()):
            try:
                fault.undo()
            except Exception as error:  # noqa: BLE001 # the other faults must be undone nevertheless
                errors.append(error)
        return errors

    def clear(self) -> None:
        """Forget the faults that are undone."""
        with self._lock:
            self._faults = [fault for fault in self._faults if fault.active]

    def all(self) -> list[Fault]:
        """Return the faults since the last `clear`."""
        with self._lock:
            return list(self._faults)
