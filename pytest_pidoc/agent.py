"""The agent in the guest, which gives a node its identity: how it gets there, and how it is told."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc import unix
from pytest_pidoc.engines.engine import AGENT_SOCKET
from pytest_pidoc.identity import Identity
from pytest_pidoc.migration import RestoreFailed

if TYPE_CHECKING:
    from pytest_pidoc.node import Node

__all__ = ["PROGRAM", "identify", "start"]

PROGRAM = Path(__file__).with_name("guest") / "agent" / "pidoc-agent"
IDENTITY_TIMEOUT = 30.0  # seconds until the agent has answered


def start(node: Node) -> None:
    """Bring the agent to a node over SSH and start it there, where it waits to be told who it is."""
    node.connection.put(str(PROGRAM), ".pidoc-agent")
    # It says when it listens, so that nothing is left to chance, and its file may go.
    node.connection.sudo("sh -c 'setsid --fork python3 .pidoc-agent </dev/null 2>&1 | head -n 1; rm .pidoc-agent'")


def identify(directory: Path, identity: Identity) -> None:
    """Tell the agent of the node in *directory* who that is, and wait until it is that.

    Raises
    ------
    RestoreFailed
        The agent does not answer, or could not do all of it.
    """
    name = identity.host_name
    try:
        with unix.connect(directory / AGENT_SOCKET, timeout=IDENTITY_TIMEOUT) as port:
            port.sendall(identity.request())
            answer = _line(port)
    except OSError as error:
        raise RestoreFailed(f"{name} did not take its identity: {error}.") from error
    if "done" not in answer:
        raise RestoreFailed(f"{name} did not take its identity: {answer.get('error', 'no answer')}.")


def _line(port: socket.socket) -> dict[str, object]:
    received = b""
    while not received.endswith(b"\n"):
        data = port.recv(4096)
        if not data:
            raise ConnectionError("QEMU closed the agent's port")
        received += data
    answer: dict[str, object] = json.loads(received)
    return answer
