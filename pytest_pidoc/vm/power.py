"""A node's power: reboot, shutdown, power cut, pause, and the way back from each."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from pytest_pidoc.errors import BootError, BootTimeout, FaultError, MonitorError, NodeDied, WaitTimeout
from pytest_pidoc.guest.output import answer, answering
from pytest_pidoc.qemu import files
from pytest_pidoc.values.deadline import Deadline, deadline_of
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.vm.firmware import Firmware
from pytest_pidoc.vm.vm import Unanswered

if TYPE_CHECKING:
    from pytest_pidoc.vm.bringup import Bringup
    from pytest_pidoc.vm.vm import Vm

__all__ = ["SHUTDOWN_TIMEOUT", "Power"]

CLOCK_MARGIN = 1.0  # seconds that a clock can be wrong: a battery-backed clock counts whole seconds
SHUTDOWN_TIMEOUT = 120.0  # seconds: systemd gives a single service 90

# A kernel's last line. Not every board can switch itself off: a real one then waits until its plug is pulled.
_LAST_WORDS = re.compile(rb"reboot: (Power down|System halted)")
INTERVAL = 0.1  # seconds between two checks
LAN_LOOKS = 100  # checks for the address of the LAN's card, 0.2 s apart
LAST_GASP = 2.0  # seconds from that line until QEMU has ended, if it does


class Power:
    """Switches a node off and on, and pauses it."""

    def __init__(self, vm: Vm, bringup: Bringup, faults: FaultLog) -> None:
        self._vm = vm
        self._bringup = bringup
        self._faults = faults
        self._firmware = Firmware(vm)
        self._outage: Fault | None = None
        self._hang: Fault | None = None
        self._paused = ""  # the handle of the QEMU that is paused
        vm.recover = self.recover

    def reboot(self, timeout: float | None) -> None:
        """Reboot the guest cleanly, and return when it is ready again; see ``Node.reboot``."""
        vm = self._vm
        self._require_moving("it cannot be rebooted")
        began, deadline = time.monotonic(), self._deadline(timeout)
        vm.attend()
        another_start = self._firmware.read(deadline.remaining)
        seen = len(vm.restarts.all())
        self._ask_systemd("reboot", deadline)
        # Before QEMU reports the reset, the server that answers is the old one.
        while len(vm.restarts.all()) == seen:
            vm.raise_if_dead("while it rebooted")
            if deadline.expired:
                raise BootTimeout(
                    f"{vm.name} has not rebooted within {deadline.timeout:.0f} s: it is still shutting down.",
                    **vm.evidence(),
                    tip=f"call reboot(timeout={deadline.timeout * 2:.0f}) if it only needs more time",
                )
            deadline.pause()
        vm.disconnect()
        if another_start:  # a QEMU that runs cannot be given other arguments for the kernel
            self._firmware.pass_on()
            vm.end()
            vm.relaunch(booted=True)
        self._bringup.await_ready(began=began, deadline=deadline, cancelled=lambda: False, settle=self._come_back)
        self._firmware.warn()

    def await_restart(self, timeout: float | None) -> None:
        """Wait until the guest has restarted by itself and is ready again; see ``Node.wait_for_reboot``."""
        vm, deadline = self._vm, self._deadline(timeout)
        while all(restart.at < vm.last_success for restart in vm.restarts.all()):
            vm.raise_if_dead("before it restarted")
            if deadline.expired:
                raise WaitTimeout(
                    f"{vm.name} has not restarted within {deadline.timeout:.0f} s.",
                    **vm.evidence(),
                    tip="check what should restart it, or call reboot()",
                )
            deadline.pause()
        vm.attend()

    def recover(self) -> None:
        """Wait until a guest that has restarted by itself is ready, and give it its identity again.

        Its disk might not have had the identity yet.
        """
        self._vm.hang_up()
        self._bringup.expect(booted=True)
        self._bringup.await_ready(
            began=time.monotonic(),
            deadline=self._deadline(None),
            cancelled=lambda: False,
            settle=self._bringup.become_itself,
        )
        self._follow_boot_files()

    def shut_down(self, timeout: float) -> Fault:
        """Shut the guest down cleanly, and return when QEMU has ended; see ``Node.shutdown``."""
        vm, deadline = self._vm, deadline_of(timeout, INTERVAL)
        self._require_moving("it cannot be shut down")
        self._firmware.read(deadline.remaining)
        start = vm.serial_log.size()
        self._ask_systemd("poweroff", deadline)
        vm.disconnect()
        gasp: Deadline | None = None
        while vm.death() is None and not (gasp and gasp.expired):
            if gasp is None and _LAST_WORDS.search(vm.serial_log.read(start=start)):
                gasp = Deadline(LAST_GASP)
            if deadline.expired:
                raise WaitTimeout(
                    f"{vm.name} has not shut down within {timeout:g} s.",
                    **vm.evidence(),
                    tip=f"set timeout={timeout * 2:g} if it only needs more time, or use power_cut()",
                )
            deadline.pause()
        return self._switch_off("shutdown", by="shutdown()", clean=True)

    def cut(self) -> Fault:
        """Kill QEMU immediately; see ``Node.power_cut``."""
        self._vm.require_on("its power cannot be cut")
        return self._switch_off("power cut", by="power_cut()")

    def on(self, timeout: float | None) -> None:
        """Boot a node that is off from its own disk; see ``Node.power_on``."""
        if self._vm.death() is not None:
            self._boot(timeout)
        self.was_started()

    def was_started(self) -> None:
        """Record that the node runs again, whoever started it."""
        self._vm.outage.end()
        if self._outage is not None:
            self._outage.undo()

    def start_over(self, timeout: float) -> None:
        """Put the node back into its first state; see ``Node.reset``."""
        vm, deadline = self._vm, deadline_of(timeout)
        vm.stop()
        files.lay_out(vm.launch)
        self._bringup.expect(booted=False)
        self._firmware.forget()
        vm.relaunch(booted=False)
        self.was_started()
        self._bringup.come_up(began=time.monotonic(), deadline=deadline, cancelled=lambda: False)

    def pause(self) -> Fault:
        """Pause the node; see ``Node.pause``."""
        vm = self._vm
        self._vm.require_on("it cannot be paused")
        if self._is_paused():
            raise FaultError(f"{vm.name} is already paused.", tip="call resume() first")
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
        """Resume the node; see ``Node.resume``."""
        self._vm.require_on("it cannot be resumed")
        if self._hang is not None:
            self._hang.undo()

    def _require_moving(self, consequence: str) -> None:
        self._vm.require_on(consequence)
        if self._is_paused():
            raise FaultError(f"{self._vm.name} is paused, so {consequence}.", tip="call resume() first")

    def _is_paused(self) -> bool:
        return self._hang is not None and self._hang.active and self._paused == self._vm.endpoint.handle

    def _go_on(self) -> None:
        """Undo `pause`; does nothing if that QEMU has ended meanwhile."""
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

    def _switch_off(self, what: str, *, by: str, clean: bool = False) -> Fault:
        vm = self._vm
        vm.switch_off(by, clean=clean)

        def undo() -> None:
            if vm.off:
                self._boot(None)

        self._outage = self._faults.add(f"{what} of {vm.name}", undo)
        return self._outage

    def _boot(self, timeout: float | None) -> None:
        """Boot the node from its own disk; if that fails, the node is off."""
        vm = self._vm
        began, deadline = time.monotonic(), self._deadline(timeout)
        vm.end()  # a node that died by itself might have left its container
        settle = self._come_back if vm.outage.clean else self._bringup.become_itself
        try:
            self._bringup.expect(booted=True)
            self._firmware.pass_on()
            vm.relaunch(booted=True)
            vm.outage.end()
            self._bringup.await_ready(began=began, deadline=deadline, cancelled=lambda: False, settle=settle)
        except BaseException:
            vm.outage.begin("power_on() failed")
            vm.end()
            raise
        self._follow_boot_files()

    def _follow_boot_files(self) -> None:
        """Reboot a guest that has booted without the kernel arguments that its boot files ask for."""
        if self._firmware.read():
            self.reboot(None)
        self._firmware.warn()

    def _come_back(self) -> None:
        """Set the guest's clock, and wait until the guest is in the LAN again."""
        self._set_clock()
        if address := self._vm.launch.lan:  # a card on USB can come later than the SSH server
            look = f"ip -4 address show eth1 2>/dev/null | grep -qF {address}/"
            self._vm.shell(f"for _ in $(seq {LAN_LOOKS}); do {look} && break; sleep 0.2; done")

    def _set_clock(self) -> None:
        """Set the guest's clock if it is wrong: boards have no battery-backed clock."""
        before = time.time()
        told = answer(self._vm.shell(answering("date +%s.%N")).text)
        if told and before - CLOCK_MARGIN < float(told) < time.time() + CLOCK_MARGIN:
            return  # setting it would make it late by the time that the command takes
        done = self._vm.shell(f"sudo -n date -s @{time.time():.3f}")
        if done.status:
            raise BootError(f"Setting the clock of {self._vm.name} failed.", evidence=done.text)

    def _ask_systemd(self, verb: str, deadline: Deadline) -> None:
        """Ask systemd to reboot or to power off; the connection can break before its answer arrives."""
        vm = self._vm
        command = f"sudo -n systemctl {verb}"
        try:
            result = vm.ask(command, timeout=max(1, int(deadline.remaining)))
        except Unanswered as error:
            if error.timed_out:
                raise WaitTimeout(
                    f"{vm.name} did not answer {command!r} within {deadline.timeout:g} s.", **vm.evidence()
                ) from error
            return
        except NodeDied:
            return
        if 0 < result.exited < 128 and not vm.death():  # from 128 on, the shutdown itself ended the command by a signal
            raise FaultError(f"{vm.name} refused {command!r}.", evidence=result.stdout + result.stderr)

    def _deadline(self, timeout: float | None) -> Deadline:
        if timeout is None:
            return Deadline(self._bringup.boot_timeout(), INTERVAL)
        return deadline_of(timeout, INTERVAL)
