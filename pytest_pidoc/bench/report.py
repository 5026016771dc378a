"""What every measurement gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Report"]


@dataclass(frozen=True)
class Report(ABC):
    """What was measured, and where; printed, it is a table with notes below it.

    Attributes
    ----------
    host, engine, qemu
        Where it was measured: the host in a few words, the engine's name and the version of its QEMU.
    """

    host: str
    engine: str
    qemu: str

    @property
    def ok(self) -> bool:
        """Whether everything was measured and is right: the exit status of the command says so."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**asdict(self), "ok": self.ok}

    def where(self, *more: str) -> str:
        """Return the note that says where it was measured, and what *more* was the same in all rows."""
        return f"{self.host}; engine {', '.join(filter(None, (self.engine, self.qemu, *more)))}"

    @abstractmethod
    def body(self) -> str:
        """Return the table, or the tables, without the notes."""

    def notes(self) -> list[str]:
        """Return the lines below the table."""
        return [self.where()]

    def __str__(self) -> str:
        return "\n".join([self.body(), *self.notes()])
