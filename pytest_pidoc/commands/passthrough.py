"""A terminal connected to a socket, key by key."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty

__all__ = ["ESCAPE", "pass_through"]

ESCAPE = b"\x1d"  # Ctrl-], as in telnet


def pass_through(connection: socket.socket) -> None:
    """Pass bytes between this process's terminal and *connection*, until `ESCAPE` is typed or one side ends.

    Without a terminal, as in a script, standard input is passed on as it is.
    """
    keyboard = sys.stdin.fileno()
    saved = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None
    try:
        if saved is not None:
            tty.setraw(keyboard)
        _copy(keyboard, connection)
    finally:
        if saved is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, saved)


def _copy(keyboard: int, connection: socket.socket) -> None:
    while True:
        ready = select.select([keyboard, connection.fileno()], [], [])[0]
        if connection.fileno() in ready:
            shown = connection.recv(65536)
            if not shown:
                return
            sys.stdout.buffer.write(shown)
            sys.stdout.buffer.flush()
        if keyboard in ready:
            typed = os.read(keyboard, 4096)
            before, escape, _ = typed.partition(ESCAPE)
            connection.sendall(before)
            if escape or not typed:
                return
