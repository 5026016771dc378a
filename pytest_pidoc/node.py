"""A node: one emulated Pi, as a test uses it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import BootError
from pytest_pidoc.guest.serial_log import SerialLog
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.machines import Machine
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.vm import contents, copies, display, forwards, programs, waits
from pytest_pidoc.vm.bringup import Bringup, Timings
from pytest_pidoc.vm.clock import Clock
from pytest_pidoc.vm.cpu import Cpu
from pytest_pidoc.vm.disk import Disk
from pytest_pidoc.vm.forwards import Forward
from pytest_pidoc.vm.network import Network
from pytest_pidoc.vm.power import SHUTDOWN_TIMEOUT, Power
from pytest_pidoc.vm.programs import Program
from pytest_pidoc.vm.vm import Vm

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric
    from invoke.runners import Result

    from pytest_pidoc.guest.console import Console

__all__ = ["UP", "Node"]

UP = "up"  # the state of a node that runs


class Node:
    """One emulated Pi; it exists as long as its cluster is up."""

    def __init__(self, vm: Vm, bringup: Bringup, *, faults: FaultLog | None = None, lan: Lan | None = None) -> None:
        self._vm = vm
        self._bringup = bringup
        self._lan = lan
        self.faults = faults or FaultLog()
        """The faults that were injected into the cluster."""
        self._power = Power(vm, bringup, self.faults)

    @property
    def name(self) -> str:
        """The node's name in its cluster, ``pi-1``; by default also its host name."""
        return self._vm.launch.name

    @property
    def model(self) -> str:
        """The model's name: ``pi3-virt``."""
        return self._vm.launch.machine.name

    @property
    def machine(self) -> Machine:
        """The model's properties: its row in the table of models."""
        return self._vm.launch.machine

    @property
    def image(self) -> Image:
        """The image that the node was started from."""
        return self._vm.launch.image

    @property
    def qemu_version(self) -> QemuVersion:
        """The version of the QEMU that runs the node."""
        return self._vm.engine.qemu_version(self.machine.binary)

    @property
    def host(self) -> str:
        """The host's address at which the node's SSH server is reached: ``127.0.0.1``."""
        return self._vm.endpoint.host

    @property
    def port(self) -> int:
        """The host's port at which the node's SSH server is reached."""
        return self._vm.endpoint.port

    @property
    def lan_address(self) -> str | None:
        """The node's address in the LAN of its cluster, ``192.168.77.1``; ``None`` if the cluster has no LAN."""
        return self._vm.launch.lan or None

    @property
    def network(self) -> Network:
        """The node's network card in the LAN; a test can unplug it: ``with pi.network.down(): ...``."""
        return Network(self._vm, self.faults, self._lan)

    @property
    def user(self) -> str:
        """The user that logs in over SSH: ``pi``."""
        return self._vm.launch.image.manifest.user

    @property
    def private_key(self) -> Path:
        """The file with the private SSH key for the node; its mode is 0600."""
        return self._vm.launch.image.file("private_key")

    @property
    def known_hosts(self) -> Path:
        """The file with the node's pinned host key, for OpenSSH and Fabric."""
        return self._vm.known_hosts

    @property
    def directory(self) -> Path:
        """The node's directory: logs, sockets, overlay. It is removed with the cluster."""
        return self._vm.endpoint.directory

    @property
    def serial_log(self) -> SerialLog:
        """The output of the serial port since power-on."""
        return self._vm.serial_log

    @property
    def timings(self) -> Timings:
        """How long the node's last start took, and whether it was warm or cold.

        Raises
        ------
        BootError
            The node is not ready yet.
        """
        if self._bringup.timings is None:
            raise BootError(f"{self.name} is not ready yet.", tip="wait until the start has returned")
        return self._bringup.timings

    @property
    def state(self) -> str:
        """``up``; otherwise since when the node is off, how its QEMU ended, or the message of its kernel's panic."""
        return self._vm.death() or self._vm.panicked() or UP

    @property
    def connection(self) -> fabric.Connection:
        """The node's ``fabric.Connection``: already open, with the host key pinned."""
        self._vm.attend()
        return self._vm.connection

    @property
    def console(self) -> Console:
        """The serial console, a pexpect spawn; opened on first use."""
        return self._vm.console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor: ``pi.monitor.execute("query-status")``; opened on first use."""
        return self._vm.monitor

    @property
    def clock(self) -> Clock:
        """The clock; a test can make it jump: ``pi.clock.jump(3600)``."""
        return Clock(self._vm, self.faults)

    @property
    def disk(self) -> Disk:
        """The disk; a test can fill it: ``pi.disk.fill()``."""
        return Disk(self._vm, self.faults)

    @property
    def cpu(self) -> Cpu:
        """The processor; a test can slow it down: ``pi.cpu.limit(0.25)``."""
        return Cpu(self._vm, self.faults)

    @property
    def ssh_command(self) -> str:
        """The shell command that opens an SSH session on the node."""
        return shlex.join(self._vm.login.arguments())

    def run(self, command: str, **kwargs: Any) -> Result:
        """Run a shell command and return Fabric's ``Result``.

        Arguments, result and exceptions are those of ``fabric.Connection.run``; output is not echoed unless
        ``hide=False``. With ``asynchronous=True``, Fabric's promise is returned at once; its ``join()`` waits for the
        result.

        Raises
        ------
        NodeDied, KernelPanic, NodeRestarted
            The node ended before the command did, its kernel panicked, or its guest restarted.
        invoke.UnexpectedExit
            The command failed, unless ``warn=True``.
        """
        return self._vm.run(command, **kwargs)

    def sudo(self, command: str, **kwargs: Any) -> Result:
        """Run a command as root, or as ``user=``; otherwise like `run`.

        Of ``sudo("a; b")``, ``sudo("a && b")`` and ``sudo("a > file")``, only *a* runs as root, as in a shell; use
        ``sudo("sh -c 'a; b'")``, and `write` for files.
        """
        return self._vm.sudo(command, **kwargs)

    def start(self, command: str, *, sudo: bool = False) -> Program:
        """Start a shell command that goes on running, as root with *sudo*, and return a handle of it at once.

        It is stopped by the handle's ``with`` block or ``stop()``, at the latest when the test ends.

        Raises
        ------
        NodeDied, KernelPanic
            The node is off, or ends meanwhile.
        PidocError
            Eight of these programs run on the node already, or the user cannot use sudo without a password.
        """
        return programs.start(self._vm, command, sudo=sudo)

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that `start` has started and that were not stopped yet, oldest first."""
        return tuple(each for each in self._vm.dependents if isinstance(each, Program))

    def put(self, local: Any, remote: str | None = None, **kwargs: Any) -> Any:
        """Copy a file or a folder to the node; arguments and result are those of ``fabric.Connection.put``.

        A folder is copied as by ``cp -r``: into *remote* if that is a folder, otherwise as *remote*. Modes are kept.

        Raises
        ------
        FileNotFoundError
            The file or folder does not exist on the host.
        CopyError
            The guest cannot store the folder.
        """
        return copies.put(self._vm, local, remote, **kwargs)

    def get(self, remote: str, local: Any = None, **kwargs: Any) -> Any:
        """Copy a file or a folder from the node, as `put` to it; see ``fabric.Connection.get``."""
        return copies.get(self._vm, remote, local, **kwargs)

    def write(
        self, path: str, content: str | bytes, *, sudo: bool = False, mode: int | None = None, owner: str | None = None
    ) -> None:
        """Write text (as UTF-8) or bytes into a file of the node, as root with *sudo*.

        Others see the old file or the whole new one. *mode* and *owner* (``root:adm``) stay as they are if not given; a
        new file has the mode 0o644. A relative *path* starts at the user's home, with *sudo*, too.

        Raises
        ------
        FileNotFoundError, PermissionError, IsADirectoryError
            The folder for it is missing, the user must not write there, or *path* is a folder.
        CopyError, SettingsError
            The guest cannot store it, for the reason that is shown; or an argument is invalid.
        """
        contents.write(self._vm, path, content, sudo=sudo, mode=mode, owner=owner)

    def read(self, path: str, *, sudo: bool = False) -> str:
        """Return the text in a file of the node, in UTF-8; for bytes, call ``get(path, io.BytesIO())``.

        Errors are those of `write`.
        """
        return contents.read(self._vm, path, sudo=sudo)

    def wait_for_port(self, port: int, *, host: str = "127.0.0.1", timeout: float = 60.0) -> None:
        """Wait at most *timeout* seconds until the node can connect to a TCP port, by default its own.

        *host* is a name or an address as the node sees it.

        Raises
        ------
        WaitTimeout
            It could not connect in time; if the port is its own, the error shows what listens there.
        NodeDied, SettingsError
            The node has ended, or an argument is invalid.
        """
        waits.wait_for_port(self._vm, port, host=host, timeout=timeout)

    def wait_for_unit(self, name: str, *, timeout: float = 60.0) -> None:
        """Wait at most *timeout* seconds until a systemd unit is active; the suffix ``.service`` is optional.

        Raises
        ------
        WaitError
            The unit has failed. The wait ends immediately; the error shows the unit's state and its last journal lines.
        WaitTimeout
            The unit was not active in time, or there is none; the error shows the same.
        NodeDied, SettingsError
            The node has ended, or an argument is invalid.
        """
        waits.wait_for_unit(self._vm, name, timeout=timeout)

    def wait_until_succeeds(self, command: str, *, timeout: float = 60.0) -> Result:
        """Run a shell command every half second until its exit status is 0; return Fabric's ``Result`` of that run.

        *timeout* is in seconds. If the command still runs when the time is up, it is killed in the guest.

        Raises
        ------
        WaitTimeout
            The command did not succeed in time; the error shows its last status and output.
        NodeDied, SettingsError
            The node has ended, or an argument is invalid.
        """
        return waits.until_succeeds(self._vm, command, timeout=timeout)

    def wait_for_reboot(self, *, timeout: float | None = None) -> None:
        """Wait until the guest has restarted by itself since the last command, and is ready again.

        *timeout* is in seconds until the restart; by default the time limit of a boot on this host.

        Raises
        ------
        WaitTimeout
            It has not restarted in time.
        BootTimeout, NodeDied, KernelPanic
            It has, and did not become ready again; or the node has ended.
        """
        self._power.await_restart(timeout)

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The open port forwards, oldest first."""
        return tuple(each for each in self._vm.dependents if isinstance(each, Forward) and each.active)

    def forward(self, port: int, *, protocol: str = "tcp") -> Forward:
        """Forward a free port of the host's 127.0.0.1 to a port of the node.

        The program in the node must listen on the node's network card (0.0.0.0), not only on its 127.0.0.1. The forward
        ends with its ``with`` block, by its ``close()``, with the test, or when the node goes down. *protocol* is
        ``tcp``, on the engine ``local`` also ``udp``.

        Raises
        ------
        SettingsError
            The port or the protocol is invalid.
        NodeDied
            The node is off.
        MonitorError
            QEMU refused to forward the port.
        """
        return forwards.open_forward(self._vm, port, protocol)

    def screenshot(self, path: str | Path) -> Path:
        """Save a screenshot of the emulated display as a PNG file, and return its path; the node is paused meanwhile.

        Raises
        ------
        MonitorError
            The model has no display, or QEMU has ended.
        """
        return display.screenshot(self._vm, path)

    def reboot(self, *, timeout: float | None = None) -> None:
        """Reboot the guest cleanly; return when a command has run over SSH and the clock is right.

        `serial_log` and `console` stay the same; `connection` and `monitor` are new objects afterwards. If the guest's
        cmdline.txt asks for other kernel arguments, QEMU is started anew, which ends `console` and `forwards`.
        *timeout* is in seconds; by default the time limit of a boot on this host.

        Raises
        ------
        FaultError
            The node is off or paused, or refuses to reboot.
        WaitTimeout
            The guest does not answer.
        BootTimeout, NodeDied, KernelPanic
            The node did not become ready again; the error shows the last serial lines.
        """
        self._power.reboot(timeout)

    def shutdown(self, *, timeout: float = SHUTDOWN_TIMEOUT) -> Fault:
        """Shut the guest down cleanly, and return when QEMU has ended. `power_on` starts the node again.

        Until then, every call that needs the node raises `NodeDied`: "pi-1 is off since shutdown() at 12:03:04." The
        returned fault's ``undo()``, which runs at the latest when the test ends, does the same as `power_on`. *timeout*
        is in seconds.

        Raises
        ------
        FaultError
            The node is already off, or is paused, or refuses to shut down.
        WaitTimeout
            The guest has not shut down in time and still runs; the error shows the last serial lines.
        """
        return self._power.shut_down(timeout)

    def power_cut(self) -> Fault:
        """Kill QEMU immediately, as if the plug was pulled. The disk keeps what the guest has synced.

        The returned fault's ``undo()``, which runs at the latest when the test ends, does the same as `power_on`.

        Raises
        ------
        FaultError
            The node is already off, or has died.
        """
        return self._power.cut()

    def power_on(self, *, timeout: float | None = None) -> None:
        """Boot a node that is off or has died from its own disk; a running node keeps running.

        This is a cold boot, with empty memory. The node keeps its name, port, MAC address, host key and machine id, and
        its clock is right. *timeout* is in seconds; by default the time limit of a boot on this host.

        Raises
        ------
        BootError
            The node did not become ready, and is off again; the error shows the last serial lines.
        """
        self._power.on(timeout)

    def pause(self) -> Fault:
        """Pause the node, as if it hung: it does not answer, and its clock stops.

        The returned fault's ``undo()``, which runs at the latest when the test ends, does the same as `resume`.

        Raises
        ------
        FaultError
            The node is off, has died, or is already paused.
        """
        return self._power.pause()

    def resume(self) -> None:
        """Resume a paused node; does nothing if it is not paused.

        Raises
        ------
        FaultError
            The node is off, or has died.
        """
        self._power.resume()

    def reset(self, *, timeout: float = 300.0) -> None:
        """Put the node back into its first state: fork it again from its saved machine, or boot its image again.

        Its disk and memory are as they were after its first start. Name, addresses, port, machine id and host key stay;
        the boot id and the random seed are new. `connection` is a new object afterwards. *timeout* is in seconds.

        Raises
        ------
        BootError
            The node did not become ready.
        """
        self._power.start_over(timeout)

    def close(self) -> None:
        """Close connections and forwards, and stop started programs; the node keeps running."""
        self._vm.close()

    def __repr__(self) -> str:
        state = "down" if self._vm.death() else UP if self._bringup.timings else "starting"
        return f"<Node {self.name} {self.model} ssh={self.host}:{self.port} {state}>"
