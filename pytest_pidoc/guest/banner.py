"""The wait for the banner of a node's SSH server: from then on a connection to the node works."""

from __future__ import annotations

import enum
import select
import socket
from collections.abc import Callable

from pytest_pidoc.values.deadline import Deadline

__all__ = ["await_banner"]

PATIENCE = 1.0  # seconds after which a silent connection is checked
CHECK_INTERVAL = 0.25  # seconds between two checks that the node still runs


def await_banner(
    address: tuple[str, int],
    *,
    deadline: Deadline,
    check: Callable[[], None],
    answers: Callable[[], bool],
) -> socket.socket | None:
    """Connect and wait for the text ``SSH-``, which stays unread for the SSH client that gets the socket.

    QEMU and Docker accept a connection long before the guest does, so an open connection proves nothing. A guest
    that has accepted it forks an SSH server for it, half a second of emulated work: such a connection is kept,
    however long it takes, because new connections would overload the guest. A connection that the guest has not
    seen yet costs nothing. It is opened again every `PATIENCE` seconds, because QEMU repeats an unanswered SYN
    more and more slowly.

    Parameters
    ----------
    address
        Host and port.
    deadline
        When to give up.
    check
        Raises an error if the node cannot answer any more: it died, or its kernel panicked.
    answers
        Returns whether the guest has accepted the connection.

    Returns
    -------
    The connected socket, or ``None`` when the deadline has passed.
    """
    connection: socket.socket | None = None
    patient = checked = 0.0
    try:
        while not deadline.expired:
            if deadline.elapsed - checked >= CHECK_INTERVAL:
                checked = deadline.elapsed
                check()
            if connection is None:
                connection = _connect(address)
                patient = deadline.elapsed + PATIENCE
                if connection is None:
                    deadline.pause()
                    continue
            state = _peek(connection, min(deadline.interval, deadline.remaining))
            if state is _Banner.SEEN:
                ready, connection = connection, None
                return ready
            if state is _Banner.CLOSED:
                connection.close()
                connection = None
                deadline.pause()
                continue
            if state is _Banner.BEGUN:
                deadline.pause()  # poll() would return immediately, again and again
            if deadline.elapsed >= patient:
                patient = deadline.elapsed + PATIENCE
                if not answers():
                    connection.close()
                    connection = None
        return None
    finally:
        if connection is not None:
            connection.close()


class _Banner(enum.Enum):
    WAITING = enum.auto()
    BEGUN = enum.auto()
    SEEN = enum.auto()
    CLOSED = enum.auto()


def _connect(address: tuple[str, int]) -> socket.socket | None:
    try:
        return socket.create_connection(address, timeout=5)
    except OSError:
        return None


def _peek(connection: socket.socket, timeout: float) -> _Banner:
    """Wait at most *timeout* seconds until the banner arrives or the connection is closed."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    events = poll.poll(timeout * 1000)
    if not events:
        return _Banner.WAITING
    try:
        start = connection.recv(4, socket.MSG_PEEK)
    except OSError:
        return _Banner.CLOSED
    if start == b"SSH-":
        return _Banner.SEEN
    return _Banner.BEGUN if start and not events[0][1] & select.POLLRDHUP else _Banner.CLOSED
