"""What a child process does with connections that it has inherited by ``fork``, as with multiprocessing.

The threads that serve the parent's connections do not exist in the child, and nothing that the child sends must get
into them. So the child opens connections of its own.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Protocol

__all__ = ["renew_in_children"]


class Inherited(Protocol):
    """What has connections and locks that a child process cannot use."""

    def forget(self) -> list[Any]:
        """Go on without connections and with locks that nobody holds; return the connections, open as they are."""


_LIVING: weakref.WeakSet[Any] = weakref.WeakSet()
_PARENTS: list[Any] = []  # kept, since their end would say goodbye to the servers


def renew_in_children(one: Inherited) -> None:
    """Let a child process that inherits it open connections of its own."""
    _LIVING.add(one)


def _renew() -> None:
    for one in tuple(_LIVING):
        for connection in one.forget():
            _PARENTS.append(connection)
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.active = False  # so that no channel sends anything when it is garbage
                with contextlib.suppress(OSError):
                    transport.sock.close()  # the child's copy


os.register_at_fork(after_in_child=_renew)
