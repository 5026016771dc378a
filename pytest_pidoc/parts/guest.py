"""What a fault does in the guest: a shell script as root, whose failure is a `FaultError`."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError, NodeDied

if TYPE_CHECKING:
    from pytest_pidoc.node import Node

__all__ = ["change", "change_back"]

TIMEOUT = 60  # seconds for a script of a few commands


def change(node: Node, script: str, what: str) -> str:
    """Run a shell script as root and return what it prints.

    Raises
    ------
    FaultError
        It failed.
    NodeDied
        The node ended before it did.
    """
    done = node.run(f"sudo -n sh -ec {shlex.quote(script)}", warn=True, timeout=TIMEOUT)
    if not done.ok:
        raise FaultError(f"{what} has failed with status {done.return_code}.", evidence=done.stdout + done.stderr)
    return str(done.stdout)


def change_back(node: Node, script: str, what: str) -> None:
    """Run a script that undoes a fault; there is nothing to undo in a node that has died, at whatever point of it."""
    with contextlib.suppress(NodeDied):
        if node.death() is None:
            change(node, script, f"undoing {what}")
