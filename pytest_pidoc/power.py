"""A node's power: it restarts, is shut down, loses its power in the middle of everything, hangs, and comes back."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import TYPE_CHECKING

from pytest_pidoc import ssh
from pytest_pidoc.errors import BootError, BootTimeout, FaultError, MonitorError, NodeDied, WaitTimeout
from pytest_pidoc.faults import Fault
from pytest_pidoc.waiting import Deadline, deadline_of

if TYPE_CHECKING:
    from pytest_pidoc.node import Node

__all__ = ["SHUTDOWN_TIMEOUT", "Power"]

CLOCK_MARGIN = 1.0  # seconds that a clock may be wrong: those that go on without power know no less
SHUTDOWN_TIMEOUT = 120.0  # seconds: a service alone may take systemd's 90

# The last words of a kernel. Not every board can end its own power: a real one then waits for its plug to be pulled.
_LAST_WORDS = re.compile(rb"reboot: (Power down|System halted)")
INTERVAL = 0.1  # seconds between two looks
LAN_LOOKS = 100  # at the address of the card to the LAN, 0.2 s apart
LAST_GASP = 2.0  # seconds from those words until QEMU has ended, if it does


class Power:
    """Whether a node is on, since when it is not, and whether it stands still.

    Attributes
    ----------
    off
        ``off since shutdown() at 12:03:04``, if it is off because it was asked to be.
    """

    def __init__(self, node: Node) -> None:
        self.off: str | None = None
        self._node = node
        self._in_order = False  # whether all that the guest had written was on its disk when it ended
        self._outage: Fault | None = None
        self._hang: Fault | None = None
        self._paused = ""  # the handle of the machine that stands still
        self._held: socket.socket | None = None

    def require(self, consequence: str) -> None:
        """Raise `FaultError` if the node is off; *consequence* completes "pi-1 is off, so ..."."""
        if self.off:
            raise FaultError(f"{self._node.name} is {self.off}, so {consequence}.", tip="power_on() starts it")
        if reason := self._node.death():
            raise FaultError(
                f"{self._node.name} has died ({reason}), so {consequence}.", **self._node.evidence(), tip="power_on()"
            )

    def reboot(self, timeout: float | None) -> None:
        """Let the guest restart in order, and return when it is ready again; see ``Node.reboot``."""
        node = self._node
        self._require_moving("it cannot be rebooted")
        began, deadline = time.monotonic(), self._deadline(timeout)
        log = node.serial_log.size()
        try:
            with node.qmp() as monitor:
                seen = len(monitor.events)
                self._ask_systemd("reboot", deadline)
                # Until then the server that still answers is the old one.
                while all(event["event"] != "RESET" for event in monitor.events[seen:]):
                    if deadline.expired:
                        raise BootTimeout(
                            f"{node.name} has not restarted within {deadline.timeout:.0f} s: it still shuts down.",
                            **node.evidence(),
                        )
                    deadline.pause()
                    monitor.execute("query-status")  # events come with an answer
        except MonitorError as error:
            node.await_death("while it restarted", cause=error)
            raise
        node.disconnect()
        node.boot_log = log  # a panic of a former life does not count
        node.bringup.await_ready(began=began, deadline=deadline, cancelled=lambda: False, settle=self._come_back)

    def shut_down(self, timeout: float) -> Fault:
        """Let the guest end in order, and return when QEMU has; see ``Node.shutdown``."""
        node, deadline = self._node, deadline_of(timeout, INTERVAL)
        self._require_moving("it cannot be shut down")
        start = node.serial_log.size()
        self._ask_systemd("poweroff", deadline)
        node.disconnect()
        gasp: Deadline | None = None
        while node.death() is None and not (gasp and gasp.expired):
            if gasp is None and _LAST_WORDS.search(node.serial_log.read(start=start)):
                gasp = Deadline(LAST_GASP)
            if deadline.expired:
                raise WaitTimeout(f"{node.name} has not shut down within {timeout:.0f} s.", **node.evidence())
            deadline.pause()
        fault = self._switch_off("shutdown")
        self._in_order = True
        return fault

    def cut(self) -> Fault:
        """End QEMU at once; see ``Node.power_cut``."""
        self.require("its power cannot be cut")
        return self._switch_off("power cut", by="power_cut")

    def on(self, timeout: float | None) -> None:
        """Boot a node that is off from its disk as it is; see ``Node.power_on``."""
        if self._node.death() is not None:
            self._boot(timeout)
        self.was_started()

    def was_started(self) -> None:
        """Take note that the node runs again, whoever started it."""
        self.release()
        self.off = None
        if self._outage is not None:
            self._outage.undo()

    def pause(self) -> Fault:
        """Let the machine stand still; see ``Node.pause``."""
        node = self._node
        self._require_moving("it cannot be paused")
        try:
            with node.qmp() as monitor:
                monitor.execute("stop")
        except MonitorError as error:
            node.await_death("before it was paused", cause=error)
            raise
        self._paused = node.endpoint.handle
        self._hang = node.faults.add(f"{node.name} hangs", self._go_on)
        return self._hang

    def resume(self) -> None:
        """Let the machine go on; see ``Node.resume``."""
        self.require("it cannot be resumed")
        if self._hang is not None:
            self._hang.undo()

    def release(self) -> None:
        """Give up the port that is held while the node is off."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _require_moving(self, consequence: str) -> None:
        self.require(consequence)
        if self._hang is not None and self._hang.active and self._paused == self._node.endpoint.handle:
            raise FaultError(f"{self._node.name} is paused, so {consequence}.", tip="resume()")

    def _go_on(self) -> None:
        """Undo `pause`; there is nothing to do if that machine has ended meanwhile."""
        node = self._node
        if node.death() is not None or self._paused != node.endpoint.handle:
            return
        try:
            with node.qmp() as monitor:
                monitor.execute("cont")
        except MonitorError as error:
            with contextlib.suppress(NodeDied):
                node.await_death(cause=error)
                raise

    def _switch_off(self, what: str, *, by: str = "") -> Fault:
        node = self._node
        self._in_order = False
        # First, so that whoever waits for an answer of the node hears the reason.
        self.off = f"off since {by or what}() at {time.strftime('%H:%M:%S')}"
        node.end()
        self._held = _hold(node.host, node.port)

        def undo() -> None:
            if self.off:
                self._boot(None)

        self._outage = node.faults.add(f"{what} of {node.name}", undo)
        return self._outage

    def _boot(self, timeout: float | None) -> None:
        """Start the node from its disk; it is off if that fails."""
        node = self._node
        began, deadline = time.monotonic(), self._deadline(timeout)
        node.end()  # of one that died by itself, a container may be left
        self.release()
        settle = self._come_back if self._in_order else node.bringup.become_itself
        self.off, self._in_order = None, False
        try:
            node.relaunch(booted=True)
            node.bringup.await_ready(began=began, deadline=deadline, cancelled=lambda: False, settle=settle)
        except BaseException:
            self.off = f"off since power_on() failed at {time.strftime('%H:%M:%S')}"
            node.end()
            raise

    def _come_back(self) -> None:
        """Let the guest be as before: with the time, and in the LAN."""
        self._set_clock()
        if address := self._node.lan_address:  # a card on USB may come later than the SSH server
            look = f"ip -4 address show eth1 2>/dev/null | grep -qF {address}/"
            self._node.shell(f"for _ in $(seq {LAN_LOOKS}); do {look} && break; sleep 0.2; done")

    def _set_clock(self) -> None:
        """Set the guest's clock if it is wrong: boards have none that goes on without power."""
        before = time.time()
        said = self._node.shell("date +%s.%N")
        if said.status == 0 and before - CLOCK_MARGIN < float(said.text) < time.time() + CLOCK_MARGIN:
            return  # to set it would make it late by as long as the command takes
        done = self._node.shell(f"sudo -n date -s @{time.time():.3f}")
        if done.status:
            raise BootError(f"The clock of {self._node.name} cannot be set.", evidence=done.text)

    def _ask_systemd(self, verb: str, deadline: Deadline) -> None:
        """Ask for a restart or the end; the answer may get lost in it."""
        from invoke.exceptions import CommandTimedOut

        node = self._node
        command = f"sudo -n systemctl {verb}"
        try:
            result = node.connection.run(command, warn=True, timeout=max(1, int(deadline.remaining)))
        except CommandTimedOut as error:
            raise WaitTimeout(f"{node.name} has not answered to {command!r}.", **node.evidence()) from error
        except Exception as error:
            if not ssh.broke(error):
                raise
            return
        if 0 < result.exited < 128 and not node.death():  # above that, a signal ended it with all the rest
            raise FaultError(f"{node.name} refuses {command!r}.", evidence=result.stdout + result.stderr)

    def _deadline(self, timeout: float | None) -> Deadline:
        return (
            Deadline(self._node.bringup.boot_timeout(), INTERVAL) if timeout is None else deadline_of(timeout, INTERVAL)
        )


def _hold(host: str, port: int) -> socket.socket | None:
    """Take a port without listening on it, so that nobody else gets it and connections are refused."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError:  # somebody was faster
        held.close()
        return None
    return held
