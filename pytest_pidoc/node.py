"""A node: one emulated Pi, its SSH connection, and how it is found out that it died."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc import documents, forwards, runtime, ssh, waits
from pytest_pidoc.bringup import Bringup, Timings
from pytest_pidoc.checks import shown
from pytest_pidoc.engines.engine import Endpoint, Engine
from pytest_pidoc.errors import BootError, KernelPanic, MonitorError, NodeDied
from pytest_pidoc.faults import Fault, FaultLog
from pytest_pidoc.forwards import Forward
from pytest_pidoc.identity import Identity
from pytest_pidoc.images.image import Image
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.machines import MODELS, Machine
from pytest_pidoc.parts.clock import Clock
from pytest_pidoc.parts.cpu import Cpu
from pytest_pidoc.parts.disk import Disk
from pytest_pidoc.parts.network import Network
from pytest_pidoc.power import SHUTDOWN_TIMEOUT, Power
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.qmp import Monitor
from pytest_pidoc.serial import SerialLog
from pytest_pidoc.shell import Output
from pytest_pidoc.ssh import Login
from pytest_pidoc.values.files import CONSOLE_SOCKET, OVERLAY, QMP_SOCKET, SCREENSHOT, SERIAL_LOG
from pytest_pidoc.waiting import Deadline, deadline_of

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric
    from invoke.runners import Result

    from pytest_pidoc.console import Console

__all__ = ["KNOWN_HOSTS", "Node"]

KNOWN_HOSTS = "known_hosts"
DEATH_GRACE = 1.0  # seconds from a broken connection until the engine must know that its node is gone


class Node:
    """One emulated Pi, as long as its cluster is up."""

    def __init__(
        self,
        launch: Launch,
        engine: Engine,
        endpoint: Endpoint,
        *,
        identity: Identity | None = None,
        host_keys: Sequence[str] = (),
        timings: Timings | None = None,
        faults: FaultLog | None = None,
        lan: Lan | None = None,
    ) -> None:
        self._launch = launch
        self._engine = engine
        self.host_keys = tuple(host_keys) or launch.image.manifest.host_keys
        """The public SSH host keys that the node is known by, as ``known_hosts`` has them behind the host."""
        self._connection: fabric.Connection | None = None
        self._console: Console | None = None
        self._monitor: Monitor | None = None
        self._forwards: list[Forward] = []
        self.endpoint = endpoint
        """Where the node is, as plain data."""
        self.faults = faults or FaultLog()
        """What goes wrong on purpose, in the whole cluster."""
        self.lan = lan
        """What connects the nodes of the cluster; ``None`` if nothing does."""
        self.bringup = Bringup(self, engine, identity=identity, timings=timings)
        """How it starts, and has started."""
        self._power = Power(self)
        self.boot_log = 0
        """Where in the serial log the last boot began, in bytes."""

    @property
    def name(self) -> str:
        """The node's name in its cluster, which is its host name too: ``pi-1``."""
        return self._launch.name

    @property
    def model(self) -> str:
        """The model: ``pi3-virt``."""
        return self._launch.machine.name

    @property
    def machine(self) -> Machine:
        """The model's row in the table."""
        return self._launch.machine

    @property
    def launch(self) -> Launch:
        """What its QEMU was started with the last time."""
        return self._launch

    @property
    def image(self) -> Image:
        """What it was started from."""
        return self._launch.image

    @property
    def qemu_version(self) -> QemuVersion:
        """The version of the QEMU that it is."""
        return self._engine.qemu_version(self.machine.binary)

    @property
    def mips(self) -> float | None:
        """How many million instructions are a second of the guest's clock, if that was asked for."""
        return self._launch.mips

    @property
    def counts_instructions(self) -> bool:
        """Whether the guest's clock counts instructions: with ``mips``, and on ``pi0`` and ``pi1`` always."""
        return self.mips is not None or bool(self.machine.icount)

    @property
    def host(self) -> str:
        """The address of this machine on which the node's SSH server is reached."""
        return self.endpoint.host

    @property
    def port(self) -> int:
        """The port of this machine on which the node's SSH server is reached."""
        return self.endpoint.port

    @property
    def lan_address(self) -> str | None:
        """The node's address in the LAN of its cluster, ``192.168.77.1``; ``None`` if it is in none, or alone."""
        return self._launch.lan or None

    @property
    def network(self) -> Network:
        """The node's card to the LAN, which can be taken out: ``with pi.network.down(): ...``."""
        return Network(self)

    @property
    def user(self) -> str:
        """Who logs in."""
        return self._launch.image.manifest.user

    @property
    def private_key(self) -> Path:
        """The SSH key that opens the node, a file with mode 0600."""
        return self._launch.image.file("private_key")

    @property
    def known_hosts(self) -> Path:
        """A file with the node's pinned host key, for OpenSSH and Fabric alike."""
        path = self.directory / KNOWN_HOSTS
        content = "".join(f"[{self.host}]:{self.port} {key}\n" for key in self.host_keys).encode("ascii")
        with contextlib.suppress(OSError, ValueError):  # there is none, or something else is in its place
            if documents.content(path) == content:
                return path
        draft = path.with_name(f".{KNOWN_HOSTS}.{os.getpid()}.{threading.get_ident()}")
        draft.write_bytes(content)
        return draft.replace(path)  # whole, whoever reads it meanwhile

    def know_by(self, host_keys: Sequence[str]) -> None:
        """Accept these public host keys, and no others, from the next connection on."""
        self.host_keys = tuple(host_keys)
        if self._connection is not None:
            ssh.pin(self._connection, self.known_hosts)

    @property
    def directory(self) -> Path:
        """The node's directory: logs, sockets, overlay. It is gone when the cluster is."""
        return self.endpoint.directory

    @property
    def serial_log(self) -> SerialLog:
        """What the serial port has printed since power-on."""
        return SerialLog(self.directory / SERIAL_LOG)

    @property
    def timings(self) -> Timings:
        """How the node started.

        Raises
        ------
        BootError
            It is not ready yet.
        """
        if self.bringup.timings is None:
            raise BootError(f"{self.name} is not ready yet.")
        return self.bringup.timings

    @property
    def connection(self) -> fabric.Connection:
        """The node's ``fabric.Connection``: open from the start, its host key pinned."""
        if self._connection is None:
            if self._power.off:
                self.raise_if_dead()
            self._connection = self._login().connection(self.raise_if_panicked)
        return self._connection

    @property
    def console(self) -> Console:
        """The serial console, for pexpect; opened on first use."""
        if self._console is None or self._console.closed:
            from pytest_pidoc.console import Console

            self.raise_if_dead()
            self._console = Console.connect(self.directory / CONSOLE_SOCKET, name=self.name)
        return self._console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor: ``pi.monitor.execute("query-status")``; opened on first use."""
        if self._monitor is None:
            self.raise_if_dead()
            self._monitor = Monitor.connect(self.directory / QMP_SOCKET, name=self.name)
        return self._monitor

    @property
    def clock(self) -> Clock:
        """The clock, which can be made to jump: ``pi.clock.jump(3600)``."""
        return Clock(self)

    @property
    def disk(self) -> Disk:
        """The disk, which can be made full: ``pi.disk.fill()``."""
        return Disk(self)

    @property
    def cpu(self) -> Cpu:
        """The processor, which can be made slow: ``pi.cpu.limit(0.25)``."""
        return Cpu(self, self._engine)

    @property
    def ssh_command(self) -> str:
        """The shell command that opens a session on the node."""
        return shlex.join(self.ssh_arguments())

    def ssh_arguments(self) -> list[str]:
        """Return the command of `ssh_command` as a list."""
        return self._login().arguments()

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
        when = f"while it ran {shown(command)}"
        with self._naming_death(when):
            result: Result = self.connection.run(command, **kwargs)
        if ssh.broke(result):  # with warn=True
            self.await_death(when)
        return result

    def sudo(self, command: str, **kwargs: Any) -> Result:
        """Run a command as root, or as ``user=``; everything else is as for `run`."""
        when = f"while it ran {shown(command)}"
        with self._naming_death(when):
            result: Result = self.connection.sudo(command, **kwargs)
        if ssh.broke(result):
            self.await_death(when)
        return result

    def put(self, local: Any, remote: str | None = None, **kwargs: Any) -> Any:
        """Copy a file to the node; arguments and result are those of ``fabric.Connection.put``."""
        with self._naming_death(f"while it was sent {local}"):
            return self.connection.put(_text(local), remote, **kwargs)

    def get(self, remote: str, local: Any = None, **kwargs: Any) -> Any:
        """Copy a file from the node; arguments and result are those of ``fabric.Connection.get``."""
        with self._naming_death(f"while it sent {remote}"):
            return self.connection.get(remote, _text(local), **kwargs)

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
        waits.wait_for_port(self, port, host=host, timeout=timeout)

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
        waits.wait_for_unit(self, name, timeout=timeout)

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
        return waits.until_succeeds(self, command, timeout=timeout)

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The open port forwards, the oldest first."""
        self._forwards = [forward for forward in self._forwards if forward.active]
        return tuple(self._forwards)

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
        forwards.check(port, protocol)
        self.raise_if_dead(f"before its port {port} was forwarded")
        forward = forwards.open_forward(self, port, protocol)
        self._forwards.append(forward)
        return forward

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
            self.raise_if_dead("while a picture of it was taken", cause=error)
            raise
        finally:
            taken.unlink(missing_ok=True)

    def death(self) -> str | None:
        """Return how the node ended, in a few words, or ``None`` while it runs."""
        return self._power.off or self._engine.death(self.endpoint)

    def raise_if_dead(self, when: str = "", *, cause: BaseException | None = None) -> None:
        """Raise `NodeDied` if the node has ended; *when* completes the sentence "pi-1 died ..."."""
        if off := self._power.off:
            raise NodeDied(f"{self.name} is {off}.", tip="power_on() starts it") from cause
        if reason := self.death():
            what = " ".join(filter(None, (self.name, "died", when)))
            raise NodeDied(f"{what}: {reason}.", **self.evidence()) from cause

    def require_on(self, consequence: str) -> None:
        """Raise `FaultError` if the node is off or has died; *consequence* completes "pi-1 is off, so ..."."""
        self._power.require(consequence)

    def panicked(self) -> str | None:
        """Return the line in which the guest's kernel gave up, if it has not started again."""
        return self.serial_log.panic(start=self.boot_log)

    def raise_if_panicked(self) -> None:
        """Raise `KernelPanic` if the guest's kernel has given up, and not started again."""
        if panic := self.panicked():
            raise KernelPanic(f"The kernel of {self.name} gave up: {panic}", **self.evidence())

    def await_death(self, when: str = "", *, cause: BaseException | None = None) -> None:
        """Raise `NodeDied` as soon as the engine knows that the node has ended, if it does soon."""
        deadline = Deadline(DEATH_GRACE)
        while not deadline.expired:
            self.raise_if_dead(when, cause=cause)
            deadline.pause()

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

    def shell(self, command: str, *, timeout: float = 300.0) -> Output:
        """Run a shell command over SSH, or on the console of a node that has no network card yet.

        Raises
        ------
        ConsoleError
            It has not ended in *timeout* seconds on the console.
        """
        if self._launch.by_console:
            return self.console.run(command, timeout=timeout)
        done = self.run(command, warn=True)
        return Output(done.return_code, done.stdout + done.stderr)

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
        self.stop()
        (self.directory / OVERLAY).unlink(missing_ok=True)
        self.relaunch(booted=False)
        self._power.was_started()
        self.bringup.come_up(began=began, deadline=deadline_of(timeout), cancelled=lambda: False)

    def relaunch(self, *, booted: bool) -> None:
        """Start QEMU again for the node that has ended, at its port; with *booted* to boot from its disk as it is."""
        self.bringup.expect(booted=booted)
        self.boot_log = self.serial_log.size()
        self._launch = replace(self._launch, port=self.endpoint.port, booted=booted)
        self.endpoint = self._engine.start(self._launch)
        runtime.move_node(self.directory.parent, self.name, asdict(self.endpoint))

    def close(self) -> None:
        """Close the connections and forwards to the node; it goes on running."""
        for forward in self.forwards:
            with contextlib.suppress(MonitorError):
                forward.close()
        self.disconnect()
        if self._console is not None:
            with contextlib.suppress(OSError):
                self._console.close()
            self._console = None

    def disconnect(self) -> None:
        """Close what does not outlast a restart of the guest, or keeps QEMU from hearing others."""
        for opened in (self._connection, self._monitor):
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.close()
        self._connection = self._monitor = None

    def leave(self) -> None:
        """Log out wherever somebody is logged in, and close the connections."""
        if self._launch.by_console:
            self.console.log_out()
        self.close()

    def stop(self) -> None:
        """Close the connections and end the node at once."""
        self.close()
        self._power.release()
        self._engine.stop(self.endpoint)

    def end(self) -> None:
        """End the node at once, and only then close the connections."""
        self._engine.stop(self.endpoint)
        self.close()

    @contextlib.contextmanager
    def qmp(self) -> Iterator[Monitor]:
        """Give `monitor` if it is open, or a connection that is closed at the end: QEMU serves one at a time."""
        if self._monitor is not None:
            yield self._monitor
            return
        with Monitor.connect(self.directory / QMP_SOCKET, name=self.name) as monitor:
            yield monitor

    def _login(self) -> Login:
        return Login(self.host, self.port, self.user, self.private_key, self.known_hosts)

    @contextlib.contextmanager
    def _naming_death(self, when: str) -> Iterator[None]:
        """Turn the many ways in which a connection breaks into one error, if it broke because the node died."""
        self.raise_if_panicked()
        try:
            yield
        except Exception as error:
            if ssh.broke(error):
                self.await_death(when, cause=error)
                self.raise_if_panicked()
            raise

    def evidence(self) -> dict[str, str]:
        """Return the last serial lines and their place, as errors take them."""
        return {"evidence": self.serial_log.tail(), "look": str(self.serial_log.path)}

    def __repr__(self) -> str:
        state = "down" if self.death() else "up" if self.bringup.timings else "starting"
        return f"<Node {self.name} {self.model} ssh={self.host}:{self.port} {state}>"


def _text(path: Any) -> Any:
    """Return a path as a string, which is what Fabric takes; leave file objects alone."""
    return str(path) if isinstance(path, Path) else path
