"""A node: one emulated Pi, as a test holds it."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import BootError, MonitorError
from pytest_pidoc.guest.serial_log import SerialLog
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.machines import MODELS, Machine
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.values.deadline import deadline_of
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.values.files import OVERLAY, SCREENSHOT
from pytest_pidoc.vm import forwards, waits
from pytest_pidoc.vm.bringup import Bringup, Timings
from pytest_pidoc.vm.clock import Clock
from pytest_pidoc.vm.cpu import Cpu
from pytest_pidoc.vm.disk import Disk
from pytest_pidoc.vm.forwards import Forward
from pytest_pidoc.vm.network import Network
from pytest_pidoc.vm.power import SHUTDOWN_TIMEOUT, Power
from pytest_pidoc.vm.vm import Vm

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric
    from invoke.runners import Result

    from pytest_pidoc.guest.console import Console

__all__ = ["UP", "Node"]

UP = "up"  # the state of a node that runs


class Node:
    """One emulated Pi, as long as its cluster is up."""

    def __init__(self, vm: Vm, bringup: Bringup, *, faults: FaultLog | None = None, lan: Lan | None = None) -> None:
        self._vm = vm
        self._bringup = bringup
        self._lan = lan
        self.faults = faults or FaultLog()
        """What goes wrong on purpose, in the whole cluster."""
        self._power = Power(vm, bringup, self.faults)

    @property
    def name(self) -> str:
        """The node's name in its cluster, which is its host name too: ``pi-1``."""
        return self._vm.launch.name

    @property
    def model(self) -> str:
        """The model: ``pi3-virt``."""
        return self._vm.launch.machine.name

    @property
    def machine(self) -> Machine:
        """The model's row in the table."""
        return self._vm.launch.machine

    @property
    def image(self) -> Image:
        """What it was started from."""
        return self._vm.launch.image

    @property
    def qemu_version(self) -> QemuVersion:
        """The version of the QEMU that runs it."""
        return self._vm.engine.qemu_version(self.machine.binary)

    @property
    def host(self) -> str:
        """The address of this machine on which the node's SSH server is reached."""
        return self._vm.endpoint.host

    @property
    def port(self) -> int:
        """The port of this machine on which the node's SSH server is reached."""
        return self._vm.endpoint.port

    @property
    def lan_address(self) -> str | None:
        """The node's address in the LAN of its cluster, ``192.168.77.1``; ``None`` if it is in none, or alone."""
        return self._vm.launch.lan or None

    @property
    def network(self) -> Network:
        """The node's card to the LAN, which can be taken out: ``with pi.network.down(): ...``."""
        return Network(self._vm, self.faults, self._lan)

    @property
    def user(self) -> str:
        """Who logs in."""
        return self._vm.launch.image.manifest.user

    @property
    def private_key(self) -> Path:
        """The SSH key that opens the node, a file with mode 0600."""
        return self._vm.launch.image.file("private_key")

    @property
    def known_hosts(self) -> Path:
        """A file with the node's pinned host key, for OpenSSH and Fabric alike."""
        return self._vm.known_hosts

    @property
    def directory(self) -> Path:
        """The node's directory: logs, sockets, overlay. It is gone when the cluster is."""
        return self._vm.endpoint.directory

    @property
    def serial_log(self) -> SerialLog:
        """What the serial port has printed since power-on."""
        return self._vm.serial_log

    @property
    def timings(self) -> Timings:
        """How the node started.

        Raises
        ------
        BootError
            It is not ready yet.
        """
        if self._bringup.timings is None:
            raise BootError(f"{self.name} is not ready yet.")
        return self._bringup.timings

    @property
    def state(self) -> str:
        """``up``, or how the node ended: that it is off and since when, how QEMU ended, or the kernel's panic."""
        return self._vm.death() or self._vm.panicked() or UP

    @property
    def connection(self) -> fabric.Connection:
        """The node's ``fabric.Connection``: open from the start, its host key pinned."""
        return self._vm.connection

    @property
    def console(self) -> Console:
        """The serial console, for pexpect; opened on first use."""
        return self._vm.console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor: ``pi.monitor.execute("query-status")``; opened on first use."""
        return self._vm.monitor

    @property
    def clock(self) -> Clock:
        """The clock, which can be made to jump: ``pi.clock.jump(3600)``."""
        return Clock(self._vm, self.faults)

    @property
    def disk(self) -> Disk:
        """The disk, which can be made full: ``pi.disk.fill()``."""
        return Disk(self._vm, self.faults)

    @property
    def cpu(self) -> Cpu:
        """The processor, which can be made slow: ``pi.cpu.limit(0.25)``."""
        return Cpu(self._vm, self.faults)

    @property
    def ssh_command(self) -> str:
        """The shell command that opens a session on the node."""
        return shlex.join(self._vm.login.arguments())

    def run(self, command: str, **kwargs: Any) -> Result:
        """Run a shell command and return Fabric's ``Result``.

        Arguments, result and exceptions are those of ``fabric.Connection.run``; output is not echoed unless
        ``hide=False``.

        Raises
        ------
        NodeDied, KernelPanic
            The node ended before the command did, or its kernel gave up.
        invoke.UnexpectedExit
            The command failed, unless ``warn=True``.
        """
        return self._vm.run(command, **kwargs)

    def sudo(self, command: str, **kwargs: Any) -> Result:
        """Run a command as root, or as ``user=``; everything else is as for `run`."""
        return self._vm.sudo(command, **kwargs)

    def put(self, local: Any, remote: str | None = None, **kwargs: Any) -> Any:
        """Copy a file to the node; arguments and result are those of ``fabric.Connection.put``."""
        with self._vm.naming_death(f"while it was sent {local}"):
            return self._vm.connection.put(_text(local), remote, **kwargs)

    def get(self, remote: str, local: Any = None, **kwargs: Any) -> Any:
        """Copy a file from the node; arguments and result are those of ``fabric.Connection.get``."""
        with self._vm.naming_death(f"while it sent {remote}"):
            return self._vm.connection.get(remote, _text(local), **kwargs)

    def wait_for_port(self, port: int, *, host: str = "127.0.0.1", timeout: float = 60.0) -> None:
        """Wait until something listens on a TCP port: until the node itself can connect to it.

        Parameters
        ----------
        port
            Its number.
        host
            A name or an address as the node sees it: itself, or another machine.
        timeout
            Seconds to wait.

        Raises
        ------
        WaitTimeout
            Nobody has listened; the error shows what else listens.
        NodeDied
            The node has ended.
        SettingsError
            An argument is not usable.
        """
        waits.wait_for_port(self._vm, port, host=host, timeout=timeout)

    def wait_for_unit(self, name: str, *, timeout: float = 60.0) -> None:
        """Wait until a unit of systemd is active; ``.service`` may be left out.

        Parameters
        ----------
        name
            The unit's name.
        timeout
            Seconds to wait.

        Raises
        ------
        WaitError
            The unit has failed, which is told at once, with its state and its last lines in the journal.
        WaitTimeout
            It was not active in time; the error shows the same.
        NodeDied
            The node has ended.
        SettingsError
            An argument is not usable.
        """
        waits.wait_for_unit(self._vm, name, timeout=timeout)

    def wait_until_succeeds(self, command: str, *, timeout: float = 60.0) -> Result:
        """Run a shell command twice a second until it succeeds, and return Fabric's ``Result`` of that run.

        A command that does not end is ended in the guest when the time is over.

        Parameters
        ----------
        command
            What to run.
        timeout
            Seconds to wait.

        Raises
        ------
        WaitTimeout
            It has not succeeded; the error shows its last status and output.
        NodeDied
            The node has ended.
        SettingsError
            The time is not usable.
        """
        return waits.until_succeeds(self._vm, command, timeout=timeout)

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The open port forwards, the oldest first."""
        return tuple(each for each in self._vm.dependents if isinstance(each, Forward) and each.active)

    def forward(self, port: int, *, protocol: str = "tcp") -> Forward:
        """Give a port of this machine, on 127.0.0.1 only, that leads to a port of the node.

        What listens in the node must do so on its network card, not on its 127.0.0.1 only. The forward ends with its
        block, by its ``close``, at the end of the test, or when the node goes down.

        ::

            with pi.forward(80) as web:
                urllib.request.urlopen(f"http://{web.host}:{web.port}")

        Parameters
        ----------
        port
            The node's port.
        protocol
            ``tcp``, or ``udp`` on the engine ``local``.

        Raises
        ------
        SettingsError
            There is no such port or protocol.
        NodeDied
            The node is off.
        MonitorError
            QEMU refused it.
        """
        return forwards.open_forward(self._vm, port, protocol)

    def screenshot(self, path: str | Path) -> Path:
        """Write what the emulated display shows now to the file *path*, a PNG, and return that path.

        The machine stands still meanwhile: QEMU 7.2 and 10.0 die if the guest changes the screen's size in the middle.

        Raises
        ------
        MonitorError
            The machine has no display, or QEMU is gone.
        """
        if not self.machine.has_display:
            raise MonitorError(
                f"There is no picture of {self.name}: the model {self.model} has no display.",
                tip=f"one that has: {', '.join(row.name for row in MODELS.values() if row.has_display)}",
            )
        taken = self.directory / SCREENSHOT
        try:
            with self.monitor.stopped():
                self.monitor.execute("screendump", filename=SCREENSHOT, format="png")
            return Path(shutil.move(taken, path))
        except MonitorError as error:
            self._vm.raise_if_dead("while a picture of it was taken", cause=error)
            raise
        finally:
            taken.unlink(missing_ok=True)

    def reboot(self, *, timeout: float | None = None) -> None:
        """Restart the guest in order, and return when it is ready again: a command has run, and its clock is right.

        The serial log goes on, and so does `console`. `connection` and `monitor` are other objects afterwards.

        Parameters
        ----------
        timeout
            Seconds that it may take; by default what a boot may take on this host.

        Raises
        ------
        FaultError
            It is off, paused, or refuses.
        BootTimeout, NodeDied, KernelPanic
            It did not come back; with the last serial lines.
        """
        self._power.reboot(timeout)

    def shutdown(self, *, timeout: float = SHUTDOWN_TIMEOUT) -> Fault:
        """Shut the guest down in order, and return when QEMU has ended. `power_on` starts the node again.

        Whatever needs the node meanwhile raises `NodeDied`: "pi-1 is off since shutdown() at 12:03:04."

        Parameters
        ----------
        timeout
            Seconds that it may take.

        Returns
        -------
        Fault
            Its ``undo``, at the latest at the end of the test, is `power_on`.

        Raises
        ------
        FaultError
            It is off already, paused, or refuses.
        WaitTimeout
            It has not ended in time; with the last serial lines. It goes on.
        """
        return self._power.shut_down(timeout)

    def power_cut(self) -> Fault:
        """Pull the plug: QEMU is killed at once, in the middle of whatever it does. What was synced is on the disk.

        Returns
        -------
        Fault
            Its ``undo``, at the latest at the end of the test, is `power_on`.

        Raises
        ------
        FaultError
            It is off already, or has died.
        """
        return self._power.cut()

    def power_on(self, *, timeout: float | None = None) -> None:
        """Boot a node that is off, or has died, from its disk as it is; it is no error if it runs.

        It has its name, port, MAC address, host key and machine id again, and the right time. Its memory is empty:
        this is a cold boot.

        Parameters
        ----------
        timeout
            Seconds that it may take; by default what a boot may take on this host.

        Raises
        ------
        BootError
            It did not become ready, with the last serial lines, and is off.
        """
        self._power.on(timeout)

    def pause(self) -> Fault:
        """Let the whole machine stand still, as one that hangs: it answers nothing, and its clock stops.

        Returns
        -------
        Fault
            Its ``undo``, at the latest at the end of the test, is `resume`.

        Raises
        ------
        FaultError
            It is off, has died, or is paused already.
        """
        return self._power.pause()

    def resume(self) -> None:
        """Let a paused machine go on; it is no error if it was not paused.

        Raises
        ------
        FaultError
            It is off, or has died.
        """
        self._power.resume()

    def reset(self, *, timeout: float = 300.0) -> None:
        """Put the node back to how it was when it was ready first: a new fork, or a boot, of what it was made from.

        Disk and memory are as they were. Name, addresses, port, machine id and host key stay; the boot id and the
        random seed are new. `connection` is another object afterwards.

        Parameters
        ----------
        timeout
            Seconds that it may take.

        Raises
        ------
        BootError
            The node did not become ready.
        """
        deadline_of(timeout)
        began = time.monotonic()
        self._vm.stop()
        (self.directory / OVERLAY).unlink(missing_ok=True)
        self._bringup.expect(booted=False)
        self._vm.relaunch(booted=False)
        self._power.was_started()
        self._bringup.come_up(began=began, deadline=deadline_of(timeout), cancelled=lambda: False)

    def close(self) -> None:
        """Close the connections and forwards to the node; it goes on running."""
        self._vm.close()

    def __repr__(self) -> str:
        state = "down" if self._vm.death() else UP if self._bringup.timings else "starting"
        return f"<Node {self.name} {self.model} ssh={self.host}:{self.port} {state}>"


def _text(path: Any) -> Any:
    """Return a path as a string, which is what Fabric takes; leave file objects alone."""
    return str(path) if isinstance(path, Path) else path
