"""Saving and restoring a machine with QEMU's migration to and from a file.

The RAM is a separate file, which QEMU maps and does not migrate (the capability ``x-ignore-shared``).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from pytest_pidoc.errors import BootError, MonitorError, RestoreFailed
from pytest_pidoc.host import documents
from pytest_pidoc.qemu import repairs
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import QEMU_LOG, QMP_SOCKET, STATE

__all__ = ["pause", "restore", "save"]

SAVE_TIMEOUT = 60.0  # seconds until the state of the devices is written; 0.02 on an idle host
RESTORE_TIMEOUT = 30.0  # seconds until it is read
DEATH_GRACE = 1.0  # seconds to wait for QEMU's end after an error or a broken connection


def pause(directory: Path) -> None:
    """Stop the machine in *directory*: those of a cluster all, before the first is saved.

    Raises
    ------
    MonitorError
        QEMU does not answer.
    """
    with Monitor.connect(directory / QMP_SOCKET, name=directory.name) as monitor:
        monitor.execute("stop")


def save(directory: Path, version: QemuVersion) -> None:
    """Stop the machine in *directory* and write the state of its devices to the file ``state`` there.

    Raises
    ------
    BootError
        QEMU cannot save that machine.
    """
    deadline = Deadline(SAVE_TIMEOUT, interval=0.01)
    with Monitor.connect(directory / QMP_SOCKET, name="the machine to be saved") as monitor:
        monitor.execute("stop")
        _ignore_shared(monitor)
        target = f"file:{STATE}" if _knows_files(version) else f"exec:cat > {STATE}"
        monitor.execute("migrate", uri=target)
        while (status := monitor.execute("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or deadline.expired:
                raise BootError(
                    f"Cannot save the machine within {SAVE_TIMEOUT:.0f} s: migration {status or 'not reported'}."
                )
            deadline.pause()


def restore(launch: Launch, state: Path, version: QemuVersion, *, death: Callable[[], str | None]) -> None:
    """Restore a state in a node's QEMU, which was started with ``-incoming defer``, and resume the guest.

    Parameters
    ----------
    launch
        The node.
    state
        The file, as that QEMU sees it.
    version
        The version of that QEMU.
    death
        Returns how that QEMU has ended, in a few words, or ``None`` while it runs.

    Raises
    ------
    RestoreFailed
        QEMU rejected the state, or ended while reading it.
    """
    deadline = Deadline(RESTORE_TIMEOUT, interval=0.002)
    directory, name = launch.directory, launch.name
    try:
        with Monitor.connect(directory / QMP_SOCKET, name=name) as monitor:
            _ignore_shared(monitor)
            source = f"file:{state}" if _knows_files(version) else f"exec:cat {shlex.quote(str(state))}"
            monitor.execute("migrate-incoming", uri=source)
            while monitor.execute("query-status")["status"] == "inmigrate":
                if deadline.expired:
                    raise RestoreFailed(f"{name} did not read its warm state within {RESTORE_TIMEOUT:.0f} s.")
                deadline.pause()
            repairs.apply(launch, monitor)
            monitor.execute("cont")
    except MonitorError as error:
        log = directory / QEMU_LOG
        said = documents.tail(log)
        grace = Deadline(DEATH_GRACE)
        while (how := death()) is None and not grace.expired:
            grace.pause()
        why = f"{how}." if how else error.what
        raise RestoreFailed(f"{name} cannot be started warm: {why}", evidence=said, look=str(log)) from error


def _knows_files(version: QemuVersion) -> bool:
    return version.numbers >= (8, 2)  # before 8.2, a program has to read or write the file


def _ignore_shared(monitor: Monitor) -> None:
    capability = {"capability": "x-ignore-shared", "state": True}
    monitor.execute("migrate-set-capabilities", capabilities=[capability])
