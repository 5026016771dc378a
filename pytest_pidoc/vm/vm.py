"""A node's QEMU, and the connections to it and to the guest."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_pidoc.engines.engine import Endpoint, Engine
from pytest_pidoc.errors import FaultError, KernelPanic, NodeDied, NodeRestarted, PidocError
from pytest_pidoc.guest import ssh
from pytest_pidoc.guest.output import Output
from pytest_pidoc.guest.serial_log import SerialLog
from pytest_pidoc.guest.ssh import Login, Unanswered
from pytest_pidoc.host import forking, records
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import CONSOLE_SOCKET, QMP_SOCKET, SERIAL_LOG
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.outage import Outage
from pytest_pidoc.vm.restarts import Restarts

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric
    from invoke.runners import Result

    from pytest_pidoc.guest.console import Console

__all__ = ["Unanswered", "Vm"]

KNOWN_HOSTS = "known_hosts"
DEATH_GRACE = 1.0  # seconds from a broken connection until the engine must know that its node is gone


class Closable(Protocol):
    """Something that uses the connections to a node and ends with them."""

    def close(self) -> None:
        """Close it."""


class Vm:
    """One node's QEMU from its start until it is stopped; after a power cycle, it is a new process.

    Attributes
    ----------
    launch
        The parameters of the last start.
    engine
        The engine that runs it.
    endpoint
        Its address, directory and process or container, as plain data.
    host_keys
        The public SSH host keys that are accepted, in the format of ``known_hosts`` without the host.
    boot_log
        The offset in bytes in the serial log at which the last boot began.
    outage
        Why the node is off, if it was switched off, by whatever process.
    dependents
        What is closed with the connections: port forwards, started programs.
    restarts
        The restarts of the guest since QEMU was started.
    transfers
        Held during a transfer by SFTP: Fabric has one client for it, which serves one thread at a time.
    recover
        Brings the node up again after its guest has restarted by itself; ``None`` while nobody can.
    last_success
        When the last command began that the guest has finished: seconds since the epoch.
    progress
        Receives how far a copy is that takes long.
    """

    def __init__(self, launch: Launch, engine: Engine, endpoint: Endpoint, *, host_keys: Sequence[str] = ()) -> None:
        self.launch = launch
        self.engine = engine
        self.endpoint = endpoint
        self.host_keys = tuple(host_keys) or launch.image.manifest.host_keys
        self.outage = Outage(endpoint.directory)
        self.restarts = Restarts(endpoint.directory)
        self._noticed, self.boot_log = self.restarts.handled()
        self.recover: Callable[[], None] | None = None
        self.last_success = 0.0
        self._connected_after = 0  # how many restarts there were before the connection was made
        self.progress = Progress()
        self._connection: fabric.Connection | None = None
        self._console: Console | None = None
        self._monitor: Monitor | None = None
        self.forget()
        forking.renew_in_children(self)

    def forget(self) -> list[Any]:
        """Go on without connections and with locks that nobody holds; return the connections, open as they are."""
        before = [self._connection, self._console, self._monitor]
        self._connection, self._console, self._monitor = None, None, None
        self.dependents: list[Closable] = []
        self.transfers = threading.Lock()
        self._attending = threading.RLock()
        self._coming_up = False
        return [each for each in before if each is not None]

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
        """The output of the serial port since power-on."""
        return SerialLog(self.directory / SERIAL_LOG)

    @property
    def login(self) -> Login:
        """Everything that is needed to log in over SSH."""
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
        """The file with the pinned host key, for OpenSSH and Fabric."""
        return ssh.known_hosts(self.directory / KNOWN_HOSTS, self.endpoint.host, self.endpoint.port, self.host_keys)

    def know_by(self, host_keys: Sequence[str]) -> None:
        """From the next connection on, accept only these public host keys."""
        self.host_keys = tuple(host_keys)
        if self._connection is not None:
            ssh.pin(self._connection, self.known_hosts)

    @property
    def connection(self) -> fabric.Connection:
        """The ``fabric.Connection``, created on first use; its host key is pinned."""
        if self._connection is None:
            if self.off:
                self.raise_if_dead()
            self._connected_after = len(self.restarts.all())
            self._connection = self.login.connection(self.check_running)
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
        """Yield `monitor` if it is open, otherwise a connection for this block: QEMU serves one at a time."""
        if self._monitor is not None:
            yield self._monitor
            return
        with Monitor.connect(self.directory / QMP_SOCKET, name=self.name) as monitor:
            yield monitor

    def run(self, command: str, **kwargs: Any) -> Result:
        """Run a shell command; arguments, result and exceptions are those of ``fabric.Connection.run``.

        Raises
        ------
        NodeDied, KernelPanic, NodeRestarted
            The node ended before the command did, its kernel panicked, or its guest restarted.
        """
        return self._named(command, lambda: self.connection.run(command, **kwargs))

    def sudo(self, command: str, **kwargs: Any) -> Result:
        """Run a command as root, or as ``user=``; otherwise like `run`."""
        return self._named(command, lambda: self.connection.sudo(command, **kwargs))

    def ask(self, command: str, *, timeout: float | None = None) -> Result:
        """Run a shell command whose failure is not an error; this package runs its own commands this way.

        Parameters
        ----------
        command
            For the login shell.
        timeout
            Seconds to wait for its end; by default without a limit.

        Raises
        ------
        Unanswered
            The command did not finish in time, the connection broke, or the guest restarted, and the node still runs.
        NodeDied, KernelPanic
            The node ended before the command did, or its kernel panicked.
        """
        from invoke.exceptions import CommandTimedOut

        try:
            result = self.run(command, warn=True, timeout=timeout)
        except CommandTimedOut as error:
            raise Unanswered("the guest does not answer", timed_out=True) from error
        except NodeRestarted as error:
            raise Unanswered(error.what) from error
        except Exception as error:
            if ssh.broke(error):
                raise Unanswered(f"the guest does not answer: {error}") from error
            raise
        if ssh.broke(result):
            raise Unanswered("the connection to the guest broke")
        return result

    def shell(self, command: str, *, timeout: float = 300.0) -> Output:
        """Run a shell command over SSH, or on the console if the node has no network card yet.

        Raises
        ------
        ConsoleError
            The command did not finish on the console within *timeout* seconds.
        """
        if self.launch.by_console:
            return self.console.run(command, timeout=timeout)
        done = self.run(command, warn=True)
        return Output(done.return_code, done.stdout + done.stderr)

    @contextlib.contextmanager
    def naming_death(self, when: str) -> Iterator[None]:
        """Raise `NodeDied`, `KernelPanic` or `NodeRestarted` instead of the error of a connection that broke for it."""
        self.raise_if_panicked()
        self.attend()
        try:
            with self._attending:  # Fabric would open it twice for two threads
                self.connection.open()
            yield
        except Exception as error:
            self._name_death(error, when)
            raise

    @property
    def off(self) -> str | None:
        """``off since shutdown() at 12:03:04`` if the node was switched off, otherwise ``None``."""
        return self.outage.reason

    def death(self) -> str | None:
        """Return in a few words how the node ended, or ``None`` while it runs."""
        known = self.endpoint
        if (reason := self.off or self.engine.death(known)) is not None:
            self._follow()
        return reason if self.endpoint is known else self.off or self.engine.death(self.endpoint)

    def raise_if_dead(self, when: str = "", *, cause: BaseException | None = None) -> None:
        """Raise `NodeDied` if the node has ended; *when* completes the sentence "pi-1 died ..."."""
        if self.off:
            raise NodeDied(f"{self.name} is {self.off}.", tip="call power_on() to start it") from cause
        if reason := self.death():
            what = " ".join(filter(None, (self.name, "died", when)))
            raise NodeDied(f"{what}: {reason}.", **self.evidence()) from cause

    def require_on(self, consequence: str) -> None:
        """Raise `FaultError` if the node is off or has died; *consequence* completes "pi-1 is off, so ..."."""
        if self.off:
            raise FaultError(f"{self.name} is {self.off}, so {consequence}.", tip="call power_on() to start it")
        if reason := self.death():
            raise FaultError(
                f"{self.name} has died ({reason}), so {consequence}.",
                **self.evidence(),
                tip="call power_on() to start it again",
            )

    def panicked(self) -> str | None:
        """Return the message of the kernel's panic since the last boot, or ``None``."""
        self.notice_restarts()
        return self.serial_log.panic(start=self.boot_log)

    def raise_if_panicked(self) -> None:
        """Raise `KernelPanic` if the guest's kernel has panicked since the last boot."""
        if panic := self.panicked():
            raise KernelPanic(f"The kernel of {self.name} gave up: {panic}", **self.evidence())

    def check_running(self, after: int | None = None) -> None:
        """Raise `KernelPanic` or `NodeRestarted` if the guest that was connected to *after* restarts runs no more."""
        self.raise_if_panicked()
        if since := self.restarts.all()[self._connected_after if after is None else after :]:
            raise NodeRestarted(f"{self.name} {since[-1]}, before a command in it had ended.", **self.evidence())

    def notice_restarts(self) -> None:
        """Let what the guest printed before its last restart be that of another boot."""
        if (number := len(self.restarts.all())) != self._noticed:
            self._noticed = number
            self.boot_log = self.serial_log.size()

    def attend(self) -> None:
        """Bring the node up again if its guest has restarted by itself; another thread waits meanwhile."""
        with self._attending:
            if self.off and not self._coming_up:
                self.hang_up()  # the connection might not have broken yet
            if self.off or self._coming_up:
                return
            if self._connection is None or not self._connection.is_connected:
                self.death()  # which follows
            if self.recover is not None and self.restarts.unhandled():
                self.recover()
            elif len(self.restarts.all()) > self._connected_after:
                self.hang_up()  # another process has brought it up

    @contextlib.contextmanager
    def coming_up(self) -> Iterator[None]:
        """Let the guest come up in this block: restarts until its last connection is made are part of that."""
        with self._attending:
            before, self._coming_up = self._coming_up, True
            try:
                yield
                self.restarts.handle(self._connected_after, self.boot_log)
            finally:
                self._coming_up = before

    def await_death(self, when: str = "", *, cause: BaseException | None = None) -> None:
        """Raise `NodeDied`, or `NodeRestarted` if the node is on again, if it ends within a second."""
        deadline, known = Deadline(DEATH_GRACE), self.endpoint
        while not deadline.expired:
            self.raise_if_dead(when, cause=cause)
            if self.endpoint is not known:
                what = f"{self.name} was switched off and on again {when or 'meanwhile'}."
                raise NodeRestarted(what, **self.evidence()) from cause
            deadline.pause()

    def evidence(self) -> dict[str, str]:
        """Return the last serial lines and the log's path, as arguments for an error."""
        return {"evidence": self.serial_log.tail(), "look": str(self.serial_log.path)}

    def relaunch(self, *, booted: bool) -> None:
        """Start the QEMU of a node that has ended again, on the same port; with *booted*, boot from its own disk."""
        self.outage.release_port()
        self.boot_log = self.serial_log.size()
        self.restarts, self._noticed = Restarts(self.directory), 0
        self.launch = replace(self.launch, port=self.endpoint.port, booted=booted)
        self.endpoint = self.engine.start(self.launch)
        records.move_node(self.directory.parent, self.name, asdict(self.endpoint))

    def switch_off(self, by: str, *, clean: bool = False) -> None:
        """Kill QEMU immediately. From then on the node is off; see `Outage.begin`. Its port is reserved."""
        self.outage.begin(by, clean=clean)  # first, so that calls that wait for an answer raise an error with it
        self.end()
        self.outage.hold_port(self.endpoint)

    def hang_up(self) -> None:
        """Close the SSH connection, which a restart of the guest breaks."""
        if self._connection is not None:
            with contextlib.suppress(OSError, EOFError):  # the connection might be broken already
                self._connection.close()
        self._connection = None

    def disconnect(self) -> None:
        """Close the SSH connection and the monitor, since QEMU serves only one at a time."""
        self.hang_up()
        if self._monitor is not None:
            self._monitor.close()
        self._monitor = None

    def close(self) -> None:
        """Close the connections and what depends on them; the node keeps running."""
        for each in tuple(self.dependents):
            with contextlib.suppress(PidocError):
                each.close()
        self._disconnect_all()

    def leave(self) -> None:
        """Log out of the console if a shell runs there, and close the connections."""
        if self.launch.by_console:
            self.console.log_out()
        self.close()

    def stop(self) -> None:
        """End QEMU immediately, close the connections, and release the port."""
        self.end()  # first, since nothing in the guest needs to be stopped then
        self.outage.release_port()

    def end(self) -> None:
        """End QEMU immediately, and close the connections afterwards."""
        self.engine.stop(self.endpoint)
        self.close()

    def _follow(self) -> None:
        """Go on with the QEMU that another process has started for the node, if one has."""
        handle = records.handle_of(self.directory.parent, self.name)
        if self.off or handle is None or handle == self.endpoint.handle:
            return
        self.endpoint = replace(self.endpoint, handle=handle)
        self.outage.release_port()
        self.restarts = Restarts(self.directory)
        self._noticed, self.boot_log = self.restarts.handled()
        self._disconnect_all()

    def _disconnect_all(self) -> None:
        self.disconnect()
        if self._console is not None:
            with contextlib.suppress(OSError):
                self._console.close()
            self._console = None

    def _named(self, command: str, run: Callable[[], Result]) -> Result:
        """Run a command with Fabric; raise `NodeDied` if it ended because the node died."""
        when = f"while it ran {shown(command)}"
        with self.naming_death(when):
            began, after = time.time(), self._connected_after
            result = run()
        if (runner := getattr(result, "runner", None)) is None:
            return self._named_result(result, when, began)
        from pytest_pidoc.guest.promises import Promised  # invoke's promise of a result

        def settle(join: Callable[[], Result]) -> Result:
            try:
                return self._named_result(join(), when, began, after)
            except Exception as error:
                self._name_death(error, when, after)
                raise

        return Promised(runner, settle)

    def _named_result(self, result: Result, when: str, began: float, after: int | None = None) -> Result:
        """Return a result; raise `NodeDied` if there is no status because the node died."""
        if not self._name_death(result, when, after):  # with warn=True
            self.last_success = began
        return result

    def _name_death(self, outcome: object, when: str, after: int | None = None) -> bool:
        """Tell whether the connection broke; raise an error if the node died, panicked or restarted for it."""
        if not ssh.broke(outcome):
            return False
        self.await_death(when, cause=outcome if isinstance(outcome, Exception) else None)
        self.check_running(after)
        return True
