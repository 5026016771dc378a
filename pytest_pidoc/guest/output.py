"""The result of a shell command in a guest, over SSH or on the console, and the answer in it.

A guest can print more than a command does: the profile and the shell's start-up file of its user, ``sudo``, programs
that miss a locale, and on a console the kernel. So what a command answers is marked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Output", "answer", "answering"]

_ANSWER = re.compile(r"<pidoc>(.*?)</pidoc>", re.DOTALL)


class Output(NamedTuple):
    """The exit status of a command, and what it printed on both streams."""

    status: int
    text: str


def answering(command: str) -> str:
    """Return a shell command that prints what *command* prints in such a way that `answer` finds it."""
    return f"pidoc=$({command}) && printf '<pidoc>%s</pidoc>\\n' \"$pidoc\""


def answer(text: str) -> str | None:
    """Return what the command in `answering` has printed, or ``None`` if it has failed."""
    found = _ANSWER.search(text)
    return None if found is None else found[1]
