"""Saving a running machine so that nodes can be forked from it: the steps that templates and clusters share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pytest_pidoc.guest import agent
from pytest_pidoc.host import sockets
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.values.files import AGENT_SOCKET, OVERLAY, RAM, SERIAL_LOG, STATE
from pytest_pidoc.vm.vm import Vm

__all__ = ["PARTS", "REST", "await_quiet", "collect", "waiting_agent"]

PARTS = (RAM, STATE, OVERLAY, SERIAL_LOG)

REST = 3.0  # seconds from the last command, so that what ends a session is not left to every fork

LOOK = 5  # seconds over which the processor must be idle: udev's workers end when they had nothing to do for three

# Comes to its end when no job of systemd's is left and the processor was idle for 98 % of that time.
_AWAIT_QUIET = """
systemctl is-system-running --wait >/dev/null 2>&1; sync
for look in $(seq {looks}); do
    read -r _ u1 n1 s1 i1 w1 q1 o1 _ < /proc/stat; sleep {seconds}; read -r _ u2 n2 s2 i2 w2 q2 o2 _ < /proc/stat
    busy=$((u2 + n2 + s2 + w2 + q2 + o2 - u1 - n1 - s1 - w1 - q1 - o1)) idle=$((i2 - i1))
    [ $((busy * 50)) -le $((busy + idle)) ] && exit 0
done
exit 1
"""


@contextlib.contextmanager
def waiting_agent(vm: Vm) -> Iterator[None]:
    """Have the agent run in the guest, and wait in a read that nobody answers, for the block.

    With nobody connected it would have to look again and again.

    Raises
    ------
    BootError
        The agent did not start.
    """
    agent.start(vm.shell, name=vm.name, port=vm.launch.machine.agent)
    with sockets.connect(vm.directory / AGENT_SOCKET):
        yield


def await_quiet(vm: Vm, timeout: float) -> bool:
    """Wait until nothing happens in the guest any more, *timeout* seconds at most; tell whether that is so.

    What was written is on the disk then.
    """
    script = _AWAIT_QUIET.format(looks=max(1, round(timeout / LOOK)), seconds=LOOK)
    return vm.shell(script, timeout=3 * timeout).status == 0


def collect(node: Path, directory: Path, log: BuildLog) -> None:
    """Copy what was saved of a machine to another file system, without filling the holes of its RAM.

    Raises
    ------
    ImageError
        It cannot be copied: the disk is full.
    """
    command: list[str | Path] = ["cp", "--sparse=always", "--reflink=auto", "--target-directory", directory]
    command += [node / name for name in PARTS]
    log.run(command, what="keeping the saved machine", timeout=600)
