"""A running machine: its QEMU, and the connections to it and to the Linux inside, as long as they last."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_pidoc.engines.engine import Endpoint, Engine
from pytest_pidoc.errors import FaultError, KernelPanic, MonitorError, NodeDied
from pytest_pidoc.guest import ssh
from pytest_pidoc.guest.output import Output
from pytest_pidoc.guest.serial_log import SerialLog
from pytest_pidoc.guest.ssh import Login
from pytest_pidoc.host import documents, records
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import CONSOLE_SOCKET, QMP_SOCKET, SERIAL_LOG

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric
    from invoke.runners import Result

    from pytest_pidoc.guest.console import Console

__all__ = ["KNOWN_HOSTS", "Unanswered", "Vm"]

KNOWN_HOSTS = "known_hosts"
DEATH_GRACE = 1.0  # seconds from a broken connection until the engine must know that its node is gone


class Unanswered(Exception):
    """The guest does not answer on its connection, or has closed it, though its machine lives on.

    Attributes
    ----------
    timed_out
        Whether the command's time was up; else the connection broke.
    """

    def __init__(self, what: str, *, timed_out: bool = False) -> None:
        super().__init__(what)
        self.timed_out = timed_out


class Closable(Protocol):
    """Something that leads to a machine and ends with the connections to it."""

    def close(self) -> None:
        """End it."""


class Vm:
    """One machine from its start until it is stopped; the QEMU behind it may be another after a restart.

    Attributes
    ----------
    launch
        What its QEMU was started with the last time.
    engine
        What runs it.
    endpoint
        Where it is, as plain data.
    host_keys
        The public SSH host keys that it is known by, as ``known_hosts`` has them behind the host.
    boot_log
        Where in the serial log the last boot began, in bytes.
    off
        ``off since shutdown() at 12:03:04``, if it is off because it was asked to be.
    dependents
        What leads to it and is closed with the connections: port forwards.
    """

    def __init__(self, launch: Launch, engine: Engine, endpoint: Endpoint, *, host_keys: Sequence[str] = ()) -> None:
        self.launch = launch
        self.engine = engine
        self.endpoint = endpoint
        self.host_keys = tuple(host_keys) or launch.image.manifest.host_keys
        self.boot_log = 0
        self.off: str | None = None
        self.dependents: list[Closable] = []
        self._connection: fabric.Connection | None = None
        self._console: Console | None = None
        self._monitor: Monitor | None = None
        self._held: socket.socket | None = None

    @property
    def name(self) -> str:
        """The node's name: ``pi-1``."""
        return self.launch.name

    @property
    def directory(self) -> Path:
        """The node's directory: logs, sockets, overlay."""
        return self.endpoint.directory

    @property
    def serial_log(self) -> SerialLog:
        """What the serial port has printed since power-on."""
        return SerialLog(self.directory / SERIAL_LOG)

    @property
    def login(self) -> Login:
        """All that it takes to log in to it over SSH."""
        image = self.launch.image
        return Login(
            self.endpoint.host,
            self.endpoint.port,
            image.manifest.user,
            image.file("private_key"),
            self.known_hosts,
        )

    @property
    def known_hosts(self) -> Path:
        """A file with its pinned host key, for OpenSSH and Fabric alike."""
        path = self.directory / KNOWN_HOSTS
        place = f"[{self.endpoint.host}]:{self.endpoint.port}"
        content = "".join(f"{place} {key}\n" for key in self.host_keys).encode("ascii")
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
    def connection(self) -> fabric.Connection:
        """Its ``fabric.Connection``, made on first use; its host key is pinned."""
        if self._connection is None:
            if self.off:
                self.raise_if_dead()
            self._connection = self.login.connection(self.raise_if_panicked)
        return self._connection

    @property
    def console(self) -> Console:
        """The serial console, for pexpect; opened on first use."""
        if self._console is None or self._console.closed:
            from pytest_pidoc.guest.console import Console

            self.raise_if_dead()
            self._console = Console.connect(self.directory / CONSOLE_SOCKET, name=self.name)
        return self._console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor; opened on first use."""
        if self._monitor is None:
            self.raise_if_dead()
            self._monitor = Monitor.connect(self.directory / QMP_SOCKET, name=self.name)
        return self._monitor

    @contextlib.contextmanager
    def qmp(self) -> Iterator[Monitor]:
        """Give `monitor` if it is open, or a connection that is closed at the end: QEMU serves one at a time."""
        if self._monitor is not None:
            yield self._monitor
            return
        with Monitor.connect(self.directory / QMP_SOCKET, name=self.name) as monitor:
            yield monitor

    def run(self, command: str, **kwargs: Any) -> Result:
        """Run a shell command; arguments, result and exceptions as for ``fabric.Connection.run``.

        Raises
        ------
        NodeDied, KernelPanic
            The machine ended before the command did, or its kernel gave up.
        """
        return self._named(command, lambda: self.connection.run(command, **kwargs))

    def sudo(self, command: str, **kwargs: Any) -> Result:
        """Run a command as root, or as ``user=``; everything else is as for `run`."""
        return self._named(command, lambda: self.connection.sudo(command, **kwargs))

    def ask(self, command: str, *, timeout: float | None = None) -> Result:
        """Run a shell command that may fail; the one way in which this package asks a guest for something.

        Parameters
        ----------
        command
            For the login shell.
        timeout
            Seconds to wait for its end; by default without a limit.

        Raises
        ------
        Unanswered
            It has not ended in time, or the connection broke, and the machine lives on.
        NodeDied, KernelPanic
            The machine ended before the command did, or its kernel gave up.
        """
        from invoke.exceptions import CommandTimedOut

        try:
            result = self.run(command, warn=True, timeout=timeout)
        except CommandTimedOut as error:
            raise Unanswered("the guest does not answer", timed_out=True) from error
        except Exception as error:
            if ssh.broke(error):
                raise Unanswered(f"the guest does not answer: {error}") from error
            raise
        if ssh.broke(result):
            raise Unanswered("the connection to the guest broke")
        return result

    def shell(self, command: str, *, timeout: float = 300.0) -> Output:
        """Run a shell command over SSH, or on the console of a machine that has no network card yet.

        Raises
        ------
        ConsoleError
            It has not ended in *timeout* seconds on the console.
        """
        if self.launch.by_console:
            return self.console.run(command, timeout=timeout)
        done = self.run(command, warn=True)
        return Output(done.return_code, done.stdout + done.stderr)

    @contextlib.contextmanager
    def naming_death(self, when: str) -> Iterator[None]:
        """Turn the many ways in which a connection breaks into one error, if it broke because the machine died."""
        self.raise_if_panicked()
        try:
            yield
        except Exception as error:
            if ssh.broke(error):
                self.await_death(when, cause=error)
                self.raise_if_panicked()
            raise

    def death(self) -> str | None:
        """Return how the machine ended, in a few words, or ``None`` while it runs."""
        return self.off or self.engine.death(self.endpoint)

    def raise_if_dead(self, when: str = "", *, cause: BaseException | None = None) -> None:
        """Raise `NodeDied` if the machine has ended; *when* completes the sentence "pi-1 died ..."."""
        if self.off:
            raise NodeDied(f"{self.name} is {self.off}.", tip="power_on() starts it") from cause
        if reason := self.death():
            what = " ".join(filter(None, (self.name, "died", when)))
            raise NodeDied(f"{what}: {reason}.", **self.evidence()) from cause

    def require_on(self, consequence: str) -> None:
        """Raise `FaultError` if the machine is off or has died; *consequence* completes "pi-1 is off, so ..."."""
        if self.off:
            raise FaultError(f"{self.name} is {self.off}, so {consequence}.", tip="power_on() starts it")
        if reason := self.death():
            raise FaultError(f"{self.name} has died ({reason}), so {consequence}.", **self.evidence(), tip="power_on()")

    def panicked(self) -> str | None:
        """Return the line in which the guest's kernel gave up, if it has not started again."""
        return self.serial_log.panic(start=self.boot_log)

    def raise_if_panicked(self) -> None:
        """Raise `KernelPanic` if the guest's kernel has given up, and not started again."""
        if panic := self.panicked():
            raise KernelPanic(f"The kernel of {self.name} gave up: {panic}", **self.evidence())

    def await_death(self, when: str = "", *, cause: BaseException | None = None) -> None:
        """Raise `NodeDied` as soon as the engine knows that the machine has ended, if it does soon."""
        deadline = Deadline(DEATH_GRACE)
        while not deadline.expired:
            self.raise_if_dead(when, cause=cause)
            deadline.pause()

    def evidence(self) -> dict[str, str]:
        """Return the last serial lines and their place, as errors take them."""
        return {"evidence": self.serial_log.tail(), "look": str(self.serial_log.path)}

    def relaunch(self, *, booted: bool) -> None:
        """Start QEMU again at the same port for a machine that has ended; with *booted* to boot from its disk."""
        self.release_port()
        self.boot_log = self.serial_log.size()
        self.launch = replace(self.launch, port=self.endpoint.port, booted=booted)
        self.endpoint = self.engine.start(self.launch)
        records.move_node(self.directory.parent, self.name, asdict(self.endpoint))

    def switch_off(self, why: str) -> None:
        """End QEMU at once; the machine is off from then on, which *why* explains, and its port is held for it."""
        self.off = why  # first, so that whoever waits for an answer hears the reason
        self.end()
        self._held = _hold(self.endpoint.host, self.endpoint.port)

    def release_port(self) -> None:
        """Give up the port that is held while the machine is off."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def disconnect(self) -> None:
        """Close what does not outlast a restart of the guest, or keeps QEMU from hearing others."""
        for opened in (self._connection, self._monitor):
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.close()
        self._connection = self._monitor = None

    def close(self) -> None:
        """Close the connections, and what leads to the machine; it goes on running."""
        for each in tuple(self.dependents):
            with contextlib.suppress(MonitorError):
                each.close()
        self.disconnect()
        if self._console is not None:
            with contextlib.suppress(OSError):
                self._console.close()
            self._console = None

    def leave(self) -> None:
        """Log out wherever somebody is logged in, and close the connections."""
        if self.launch.by_console:
            self.console.log_out()
        self.close()

    def stop(self) -> None:
        """Close the connections and end the machine at once."""
        self.close()
        self.release_port()
        self.engine.stop(self.endpoint)

    def end(self) -> None:
        """End the machine at once, and only then close the connections."""
        self.engine.stop(self.endpoint)
        self.close()

    def _named(self, command: str, run: Callable[[], Result]) -> Result:
        """Run a command by Fabric; name the death of the machine if that is what ended it."""
        when = f"while it ran {shown(command)}"
        with self.naming_death(when):
            result = run()
        if ssh.broke(result):  # with warn=True
            self.await_death(when)
        return result


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
