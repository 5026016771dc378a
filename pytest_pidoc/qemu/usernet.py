"""The user network of a guest, as QEMU's monitor shows it by ``info usernet``."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_pidoc.errors import MonitorError
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.values.files import QMP_SOCKET

__all__ = ["forwarded_port", "guest_answers"]


def guest_answers(directory: Path) -> bool:
    """Ask the QEMU in *directory* whether its guest has accepted a connection to its SSH port.

    ``info usernet`` shows ``TCP[SYN_SENT]`` while it has not, ``TCP[ESTABLISHED]`` and later states when it has.
    """
    try:
        with Monitor.connect(directory / QMP_SOCKET, timeout=2) as monitor:
            usernet = monitor.human("info usernet")
    except MonitorError:
        return True  # too busy to tell, or gone: the former wants patience, the latter is found by the check
    states = re.findall(r"TCP\[(\w+)\]\s+\d+\s+\S+\s+\d+\s+\S+\s+22\s", usernet)
    return any(state not in {"HOST_FORWARD", "SYN_SENT"} for state in states)


def forwarded_port(usernet: str) -> int:
    """Return the host port of the SSH forward in what ``info usernet`` prints.

    A line of it: ``TCP[HOST_FORWARD]  11       127.0.0.1 42345       10.0.2.15    22     0     0``.
    """
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+22\s", usernet)
    if found is None:
        raise MonitorError("QEMU reports no port that is forwarded to the guest's SSH port.", evidence=usernet)
    return int(found[1])
