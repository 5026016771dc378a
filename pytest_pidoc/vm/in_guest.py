"""Runs the shell script of a fault in the guest, as root; if it fails, that is a `FaultError`."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError, NodeDied
from pytest_pidoc.vm.vm import Unanswered

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["change", "change_back"]

TIMEOUT = 60  # seconds for a script of a few commands


def change(vm: Vm, script: str, what: str) -> str:
    """Run a shell script as root and return what it prints.

    Raises
    ------
    FaultError
        The script failed, or the guest does not answer.
    NodeDied
        The node ended before the script did.
    """
    try:
        done = vm.ask(f"sudo -n sh -ec {shlex.quote(script)}", timeout=TIMEOUT)
    except Unanswered as error:
        raise FaultError(f'The fault "{what}" failed in the guest: {error}.', **vm.evidence()) from error
    if not done.ok:
        raise FaultError(
            f'The fault "{what}" failed in the guest with status {done.return_code}.',
            evidence=done.stdout + done.stderr,
            tip="read what the guest said above, and change the arguments",
        )
    return str(done.stdout)


def change_back(vm: Vm, script: str, what: str) -> None:
    """Run a script that undoes a fault; if the node has died or dies meanwhile, nothing is left to undo."""
    with contextlib.suppress(NodeDied):
        if vm.death() is None:
            change(vm, script, f"undoing {what}")
