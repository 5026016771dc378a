"""Ports of the host that are kept for a node that is off."""

from __future__ import annotations

import socket

__all__ = ["hold"]


def hold(host: str, port: int) -> socket.socket | None:
    """Bind a port without listening on it: no other process gets it, and connections to it are refused."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError:  # another process was faster
        held.close()
        return None
    return held
