"""How a node comes up: it becomes who it is to be, and is waited for until a command has run."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pidoc.errors import BootError, BootTimeout, ConsoleError
from pytest_pidoc.guest import agent, ssh
from pytest_pidoc.guest import banner as readiness
from pytest_pidoc.guest.identity import Identity
from pytest_pidoc.qemu import speed
from pytest_pidoc.qemu.usernet import guest_answers
from pytest_pidoc.values.deadline import Deadline

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Bringup", "Timings"]


@dataclass(frozen=True)
class Timings:
    """How a node started: seconds from the start of ``up``, and in which way.

    Attributes
    ----------
    launched
        QEMU runs.
    banner
        The SSH server has sent its banner.
    ready
        A command has run over SSH.
    restored
        The saved machine goes on and the node is itself; ``None`` after a cold start.
    start
        ``warm``: the node was forked from a saved machine; ``cold``: it was booted.
    """

    launched: float
    banner: float
    ready: float
    restored: float | None = None
    start: str = "cold"


class Bringup:
    """A node from the start of its QEMU to its first command, each time that it starts.

    Attributes
    ----------
    timings
        How it started the last time; ``None`` while it has never been ready.
    """

    def __init__(self, vm: Vm, *, identity: Identity | None = None, timings: Timings | None = None) -> None:
        self.timings = timings
        self._vm = vm
        self._known_identity = identity
        self._former_keys: tuple[str, ...] = ()

    def boot_timeout(self) -> float:
        """Return the seconds that a boot of this node may take on this host as it is now."""
        stock = self._vm.launch.image.manifest.stock
        return speed.boot_timeout(self._vm.launch.machine, 1, speed.probe(self._vm.engine), stock=stock)

    def expect(self, *, booted: bool) -> None:
        """Be ready for another start of the node's QEMU; with *booted* from its disk as it is."""
        self._known_identity = self._identity.reborn()
        # What it had before its identity had reached the disk, it may have again.
        self._former_keys = self._vm.launch.image.manifest.host_keys if booted else ()

    def come_up(self, *, began: float, deadline: Deadline, cancelled: Callable[[], bool]) -> None:
        """Give the node that has just been started its identity, and wait until it is ready.

        A forked node is itself before anybody can connect to it, a booted one by the first connection. The
        parameters and errors are those of `await_ready`.
        """
        launch = self._vm.launch
        launched, restored = time.monotonic() - began, None
        if launch.forked:
            self.take_identity()
            restored = time.monotonic() - began
        if launch.by_console:
            self._await_console(deadline=deadline, cancelled=cancelled)
            ready = time.monotonic() - began
            self.timings = Timings(launched, ready, ready)
            return

        def settle() -> None:
            if not launch.forked and not launch.record:
                self.become_itself()

        self.await_ready(
            began=began, deadline=deadline, cancelled=cancelled, launched=launched, restored=restored, settle=settle
        )

    def await_ready(
        self,
        *,
        began: float,
        deadline: Deadline,
        cancelled: Callable[[], bool],
        launched: float | None = None,
        restored: float | None = None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until the SSH server has answered and a command has run.

        Parameters
        ----------
        began
            When ``up`` began, on the clock of ``time.monotonic``.
        deadline
            When to give up.
        cancelled
            Whether somebody else has given up already.
        launched, restored
            Seconds from then until QEMU ran (by default: now), and until a saved machine went on.
        settle
            Called when a command has run; the node counts as ready when it returns.

        Raises
        ------
        BootTimeout, NodeDied, KernelPanic, BootError
            With the last serial lines; the last one if systemd gives up, as in its emergency mode.
        """
        vm = self._vm
        launched = time.monotonic() - began if launched is None else launched
        opened = False
        while not opened:
            banner = readiness.await_banner(
                (vm.endpoint.host, vm.endpoint.port),
                deadline=deadline,
                check=lambda: self._check(cancelled),
                answers=lambda: guest_answers(vm.directory),
            )
            if banner is None:
                raise self._timeout("its SSH server has not answered", deadline)
            answered = time.monotonic() - began
            opened = self._open(banner, deadline)
        settle()
        ready = time.monotonic() - began
        self.timings = Timings(launched, answered, ready, restored, "cold" if restored is None else "warm")

    def become_itself(self) -> None:
        """Bring the agent to a node that has booted, and let it be who it is to be, at the right time."""
        agent.start(self._vm.shell, name=self._vm.name, port=self._vm.launch.machine.agent)
        self.take_identity()

    def take_identity(self) -> None:
        """Let the guest be who it is to be, and know it by its own host keys from the next connection on."""
        vm, identity = self._vm, self._identity
        agent.identify(vm.directory, identity, forked=vm.launch.forked, readdress=vm.launch.machine.readdresses)
        vm.know_by(identity.public_host_keys)

    @property
    def _identity(self) -> Identity:
        """Who the node is; a process that has not started it reads what the one that has wrote down."""
        if self._known_identity is None:
            self._known_identity = Identity.read(self._vm.directory)
        return self._known_identity

    def _await_console(self, *, deadline: Deadline, cancelled: Callable[[], bool]) -> None:
        """Wait until commands can be run on the serial console."""
        vm = self._vm
        try:
            password = vm.launch.image.manifest.password
            vm.console.log_in(
                vm.launch.image.manifest.user, password, deadline=deadline, check=lambda: self._check(cancelled)
            )
        except ConsoleError as error:
            vm.raise_if_dead(cause=error)
            raise self._timeout("its console has shown no prompt", deadline) from error

    def _check(self, cancelled: Callable[[], bool]) -> None:
        """Raise when waiting for the node to start has become pointless."""
        if cancelled():
            raise BootError(f"The start of {self._vm.name} was cancelled.")
        vm = self._vm
        vm.raise_if_dead()
        vm.raise_if_panicked()
        if words := vm.serial_log.systemd_gave_up(start=vm.boot_log):
            raise BootError(f'{vm.name} will start no SSH server: systemd says "{words}".', **vm.evidence())

    def _open(self, banner: socket.socket, deadline: Deadline) -> bool:
        """Log in on a socket that has shown the banner, and run a first command; tell whether it went through."""
        vm = self._vm
        try:
            ssh.log_in(vm.connection, banner, timeout=deadline.remaining)
        except ssh.LoginRefused as error:
            if isinstance(error, ssh.HostKeyRefused) and self._former_keys:
                vm.know_by(self._former_keys)
                self._former_keys = ()
                return False
            raise BootError(
                f"{vm.name} has answered on port {vm.endpoint.port}, but no command can be run: {error}",
                **vm.evidence(),
            ) from error
        except ConnectionError as error:
            vm.raise_if_dead(cause=error)
            if deadline.expired:
                raise self._timeout(f"it has answered, but no command has run ({error})", deadline) from error
            return False
        return True

    def _timeout(self, what: str, deadline: Deadline) -> BootTimeout:
        if root := self._vm.serial_log.awaited_root(start=self._vm.boot_log):
            what = f"its kernel waits for the root device {root}"
        return BootTimeout(
            f"{self._vm.name} was not ready after {deadline.elapsed:.0f} s: {what}.",
            **self._vm.evidence(),
            tip=f"--pidoc-boot-timeout={deadline.timeout * 2:.0f} if this host is busy",
        )
