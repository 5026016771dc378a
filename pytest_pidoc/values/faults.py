"""Things that go wrong on purpose: each can be undone, and is at the latest when the test ends that caused it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Fault", "FaultLog"]


class Fault:
    """Something that goes wrong, from when it was made until `undo`; a context manager that undoes it at its end.

    Parameters
    ----------
    what
        What goes wrong, in a few words: ``partition pi-1 | pi-2, pi-3``.
    undo
        Puts it right; it is called once.
    """

    def __init__(self, what: str, undo: Callable[[], None]) -> None:
        self.what = what
        """What goes wrong, in a few words."""
        self.began = time.time()
        """When it began, in seconds since the epoch."""
        self.ended: float | None = None
        """When it was undone; ``None`` while it lasts."""
        self._undo = undo
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether it lasts."""
        return self.ended is None

    def undo(self) -> None:
        """Put it right; it is no error when that was done already."""
        with self._lock:
            if self.ended is None:
                self._undo()
                self.ended = time.time()

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
    """The faults of a cluster, in the order in which they were made."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, what: str, undo: Callable[[], None]) -> Fault:
        """Write down a fault that has just been made; see `Fault` for the parameters."""
        fault = Fault(what, undo)
        with self._lock:
            self._faults.append(fault)
        return fault

    def undo_all(self) -> list[Exception]:
        """Undo what still lasts, the latest first; return what went wrong with that."""
        errors = []
        for fault in reversed(self.all()):
            try:
                fault.undo()
            except Exception as error:  # noqa: BLE001 # the others are to be undone nevertheless
                errors.append(error)
        return errors

    def clear(self) -> None:
        """Forget those that are undone."""
        with self._lock:
            self._faults = [fault for fault in self._faults if fault.active]

    def all(self) -> list[Fault]:
        """Return the faults since the last `clear`."""
        with self._lock:
            return list(self._faults)
