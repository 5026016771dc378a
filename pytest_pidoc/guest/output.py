"""The result of a shell command in a guest, over SSH or on the console."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Output"]


class Output(NamedTuple):
    """The exit status of a command, and what it printed on both streams."""

    status: int
    text: str
