"""A node's power: it restarts, is shut down, loses its power in the middle of everything, hangs, and comes back."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from pytest_pidoc.errors import BootError, BootTimeout, FaultError, MonitorError, NodeDied, WaitTimeout
from pytest_pidoc.values.deadline import Deadline, deadline_of
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.vm.vm import Unanswered

if TYPE_CHECKING:
    from pytest_pidoc.vm.bringup import Bringup
    from pytest_pidoc.vm.vm import Vm

__all__ = ["SHUTDOWN_TIMEOUT", "Power"]

CLOCK_MARGIN = 1.0  # seconds that a clock may be wrong: those that go on without power know no less
SHUTDOWN_TIMEOUT = 120.0  # seconds: a service alone may take systemd's 90

# The last words of a kernel. Not every board can end its own power: a real one then waits for its plug to be pulled.
_LAST_WORDS = re.compile(rb"reboot: (Power down|System halted)")
INTERVAL = 0.1  # seconds between two looks
LAN_LOOKS = 100  # at the address of the card to the LAN, 0.2 s apart
LAST_GASP = 2.0  # seconds from those words until QEMU has ended, if it does


class Power:
    """What turns a machine off and on again, and lets it stand still."""

    def __init__(self, vm: Vm, bringup: Bringup, faults: FaultLog) -> None:
        self._vm = vm
        self._bringup = bringup
        self._faults = faults
        self._clean = False  # whether all that the guest had written was on its disk when it ended
        self._outage: Fault | None = None
        self._hang: Fault | None = None
        self._paused = ""  # the handle of the machine that stands still

    def reboot(self, timeout: float | None) -> None:
        """Let the guest restart in order, and return when it is ready again; see ``Node.reboot``."""
        vm = self._vm
        self._require_moving("it cannot be rebooted")
        began, deadline = time.monotonic(), self._deadline(timeout)
        log = vm.serial_log.size()
        try:
            with vm.qmp() as monitor:
                seen = len(monitor.events)
                self._ask_systemd("reboot", deadline)
                # Until then the server that still answers is the old one.
                while all(event["event"] != "RESET" for event in monitor.events[seen:]):
                    if deadline.expired:
                        raise BootTimeout(
                            f"{vm.name} has not restarted within {deadline.timeout:.0f} s: it still shuts down.",
                            **vm.evidence(),
                        )
                    deadline.pause()
                    monitor.execute("query-status")  # events come with an answer
        except MonitorError as error:
            vm.await_death("while it restarted", cause=error)
            raise
        vm.disconnect()
        vm.boot_log = log  # a panic of a former life does not count
        self._bringup.await_ready(began=began, deadline=deadline, cancelled=lambda: False, settle=self._come_back)

    def shut_down(self, timeout: float) -> Fault:
        """Let the guest end in order, and return when QEMU has; see ``Node.shutdown``."""
        vm, deadline = self._vm, deadline_of(timeout, INTERVAL)
        self._require_moving("it cannot be shut down")
        start = vm.serial_log.size()
        self._ask_systemd("poweroff", deadline)
        vm.disconnect()
        gasp: Deadline | None = None
        while vm.death() is None and not (gasp and gasp.expired):
            if gasp is None and _LAST_WORDS.search(vm.serial_log.read(start=start)):
                gasp = Deadline(LAST_GASP)
            if deadline.expired:
                raise WaitTimeout(f"{vm.name} has not shut down within {timeout:.0f} s.", **vm.evidence())
            deadline.pause()
        fault = self._switch_off("shutdown")
        self._clean = True
        return fault

    def cut(self) -> Fault:
        """End QEMU at once; see ``Node.power_cut``."""
        self._vm.require_on("its power cannot be cut")
        return self._switch_off("power cut", by="power_cut")

    def on(self, timeout: float | None) -> None:
        """Boot a node that is off from its disk as it is; see ``Node.power_on``."""
        if self._vm.death() is not None:
            self._boot(timeout)
        self.was_started()

    def was_started(self) -> None:
        """Take note that the node runs again, whoever started it."""
        self._vm.release_port()
        self._vm.off = None
        if self._outage is not None:
            self._outage.undo()

    def pause(self) -> Fault:
        """Let the machine stand still; see ``Node.pause``."""
        vm = self._vm
        self._require_moving("it cannot be paused")
        try:
            with vm.qmp() as monitor:
                monitor.execute("stop")
        except MonitorError as error:
            vm.await_death("before it was paused", cause=error)
            raise
        self._paused = vm.endpoint.handle
        self._hang = self._faults.add(f"{vm.name} hangs", self._go_on)
        return self._hang

    def resume(self) -> None:
        """Let the machine go on; see ``Node.resume``."""
        self._vm.require_on("it cannot be resumed")
        if self._hang is not None:
            self._hang.undo()

    def _require_moving(self, consequence: str) -> None:
        self._vm.require_on(consequence)
        if self._hang is not None and self._hang.active and self._paused == self._vm.endpoint.handle:
            raise FaultError(f"{self._vm.name} is paused, so {consequence}.", tip="resume()")

    def _go_on(self) -> None:
        """Undo `pause`; there is nothing to do if that machine has ended meanwhile."""
        vm = self._vm
        if vm.death() is not None or self._paused != vm.endpoint.handle:
            return
        try:
            with vm.qmp() as monitor:
                monitor.execute("cont")
        except MonitorError as error:
            with contextlib.suppress(NodeDied):
                vm.await_death(cause=error)
                raise

    def _switch_off(self, what: str, *, by: str = "") -> Fault:
        vm = self._vm
        self._clean = False
        vm.switch_off(f"off since {by or what}() at {time.strftime('%H:%M:%S')}")

        def undo() -> None:
            if vm.off:
                self._boot(None)

        self._outage = self._faults.add(f"{what} of {vm.name}", undo)
        return self._outage

    def _boot(self, timeout: float | None) -> None:
        """Start the node from its disk; it is off if that fails."""
        vm = self._vm
        began, deadline = time.monotonic(), self._deadline(timeout)
        vm.end()  # of one that died by itself, a container may be left
        settle = self._come_back if self._clean else self._bringup.become_itself
        vm.off, self._clean = None, False
        try:
            self._bringup.expect(booted=True)
            vm.relaunch(booted=True)
            self._bringup.await_ready(began=began, deadline=deadline, cancelled=lambda: False, settle=settle)
        except BaseException:
            vm.off = f"off since power_on() failed at {time.strftime('%H:%M:%S')}"
            vm.end()
            raise

    def _come_back(self) -> None:
        """Let the guest be as before: with the time, and in the LAN."""
        self._set_clock()
        if address := self._vm.launch.lan:  # a card on USB may come later than the SSH server
            look = f"ip -4 address show eth1 2>/dev/null | grep -qF {address}/"
            self._vm.shell(f"for _ in $(seq {LAN_LOOKS}); do {look} && break; sleep 0.2; done")

    def _set_clock(self) -> None:
        """Set the guest's clock if it is wrong: boards have none that goes on without power."""
        before = time.time()
        said = self._vm.shell("date +%s.%N")
        if said.status == 0 and before - CLOCK_MARGIN < float(said.text) < time.time() + CLOCK_MARGIN:
            return  # to set it would make it late by as long as the command takes
        done = self._vm.shell(f"sudo -n date -s @{time.time():.3f}")
        if done.status:
            raise BootError(f"The clock of {self._vm.name} cannot be set.", evidence=done.text)

    def _ask_systemd(self, verb: str, deadline: Deadline) -> None:
        """Ask for a restart or the end; the answer may get lost in it."""
        vm = self._vm
        command = f"sudo -n systemctl {verb}"
        try:
            result = vm.ask(command, timeout=max(1, int(deadline.remaining)))
        except Unanswered as error:
            if error.timed_out:
                raise WaitTimeout(f"{vm.name} has not answered to {command!r}.", **vm.evidence()) from error
            return
        except NodeDied:
            return
        if 0 < result.exited < 128 and not vm.death():  # above that, a signal ended it with all the rest
            raise FaultError(f"{vm.name} refuses {command!r}.", evidence=result.stdout + result.stderr)

    def _deadline(self, timeout: float | None) -> Deadline:
        if timeout is None:
            return Deadline(self._bringup.boot_timeout(), INTERVAL)
        return deadline_of(timeout, INTERVAL)
