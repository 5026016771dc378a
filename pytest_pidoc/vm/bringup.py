"""The start of a node: gives it its identity, and waits until a command has run."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pidoc.errors import BootError, BootTimeout, ConsoleError, NodeRestarted
from pytest_pidoc.guest import agent, ssh
from pytest_pidoc.guest import banner as readiness
from pytest_pidoc.guest.identity import Identity
from pytest_pidoc.qemu import speed
from pytest_pidoc.qemu.usernet import guest_answers
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.vm import firmware

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Bringup", "Timings"]


@dataclass(frozen=True)
class Timings:
    """How a node started, and how long each step took. All times are seconds since the start of ``up``.

    Attributes
    ----------
    launched
        When QEMU ran.
    banner
        When the SSH server had sent its banner.
    ready
        When a command had run over SSH.
    restored
        When the saved machine had resumed and the node had its own identity; ``None`` after a cold start.
    start
        ``warm`` if the node was forked from a saved machine, ``cold`` if it was booted.
    """

    launched: float
    banner: float
    ready: float
    restored: float | None = None
    start: str = "cold"


class Bringup:
    """Brings a node from the start of its QEMU to its first command, each time that it starts.

    Attributes
    ----------
    timings
        The times of the last start; ``None`` until the node is ready for the first time.
    """

    def __init__(self, vm: Vm, *, identity: Identity | None = None, timings: Timings | None = None) -> None:
        self.timings = timings
        self._vm = vm
        self._known_identity = identity
        self._former_keys: tuple[str, ...] = ()

    def boot_timeout(self) -> float:
        """Return the time limit in seconds of a boot of this node on this host, at the host's current speed."""
        stock = self._vm.launch.image.manifest.stock
        return speed.boot_timeout(self._vm.launch.machine, 1, speed.probe(self._vm.engine), stock=stock)

    def expect(self, *, booted: bool) -> None:
        """Prepare for another start of the node's QEMU; with *booted*, the node boots from its own disk."""
        self._known_identity = self._identity.reborn()
        # If its identity had not reached the disk, the node has the image's host keys again.
        self._former_keys = self._vm.launch.image.manifest.host_keys if booted else ()

    def come_up(self, *, began: float, deadline: Deadline, cancelled: Callable[[], bool]) -> None:
        """Give a node that was just started its identity, and wait until it is ready.

        A forked node gets its identity before anybody can connect to it, a booted node over the first connection. The
        parameters and errors are those of `await_ready`.
        """
        launch = self._vm.launch
        launched, restored = time.monotonic() - began, None
        if launch.forked:
            if launch.origin:
                self._go_on()
            else:
                self._take_identity(ssh_held=True)
            restored = time.monotonic() - began
        if launch.by_console:
            self._await_console(deadline=deadline, cancelled=cancelled)
            ready = time.monotonic() - began
            self.timings = Timings(launched, ready, ready)
            return

        def settle() -> None:
            if not launch.forked and not launch.record:
                self.become_itself()
                firmware.prepare(launch, self._vm.shell)

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
        """Wait until the SSH server answers and a command has run.

        Parameters
        ----------
        began
            When ``up`` began, on the clock of ``time.monotonic``.
        deadline
            When to give up.
        cancelled
            Returns whether the start was cancelled.
        launched, restored
            Seconds from *began* until QEMU ran (by default: now), and until a saved machine had resumed.
        settle
            Called when a command has run; the node is ready when it returns.

        Raises
        ------
        BootTimeout
            The node was not ready by the deadline.
        NodeDied, KernelPanic
            The node has ended, or its kernel panicked.
        BootError
            The start was cancelled, systemd gave up (emergency mode), or logging in failed.
        """
        vm = self._vm
        launched = time.monotonic() - began if launched is None else launched
        opened = False
        with vm.coming_up():
            while not opened:
                banner = readiness.await_banner(
                    (vm.endpoint.host, vm.endpoint.port),
                    deadline=deadline,
                    check=lambda: self._check(cancelled),
                    answers=lambda: guest_answers(vm.directory),
                )
                if banner is None:
                    raise self._timeout("its SSH server did not answer", deadline)
                answered = time.monotonic() - began
                opened = self._open(banner, deadline)
            settle()
        ready = time.monotonic() - began
        self.timings = Timings(launched, answered, ready, restored, "cold" if restored is None else "warm")

    def become_itself(self) -> None:
        """Copy the agent to a node that has booted, and give the node its identity and the right time."""
        vm = self._vm
        agent.start(vm.shell, name=vm.name, port=vm.launch.machine.agent)
        known_by = vm.host_keys
        self._take_identity(ssh_held=False)
        if vm.host_keys != known_by:
            vm.hang_up()  # the server had another key than the node's

    def _take_identity(self, *, ssh_held: bool) -> None:
        """Give the guest its identity; from the next connection on, accept only its own host keys."""
        vm, identity = self._vm, self._identity
        agent.identify(vm.directory, identity, ssh_held=ssh_held, readdress=vm.launch.machine.readdresses)
        vm.know_by(identity.public_host_keys)

    def _go_on(self) -> None:
        """Let the guest go on as the node that was saved, at the right time."""
        vm, identity = self._vm, self._identity
        agent.renew(vm.directory, identity)
        vm.know_by(identity.public_host_keys)

    @property
    def _identity(self) -> Identity:
        """The node's identity; a process that did not start the node reads it from the node's directory."""
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
            raise self._timeout("its serial console showed no prompt", deadline) from error

    def _check(self, cancelled: Callable[[], bool]) -> None:
        """Raise an error if the node cannot become ready any more."""
        if cancelled():
            raise BootError(f"The start of {self._vm.name} was cancelled.")
        vm = self._vm
        vm.raise_if_dead()
        vm.raise_if_panicked()
        if words := vm.serial_log.systemd_gave_up(start=vm.boot_log):
            raise BootError(
                f'{vm.name} will not start its SSH server: systemd says "{words}".',
                **vm.evidence(),
                tip="read the lines above: they name the unit or the file system that failed",
            )

    def _open(self, banner: socket.socket, deadline: Deadline) -> bool:
        """Log in on a socket that has shown the banner, and run a first command; tell whether that worked."""
        vm = self._vm
        try:
            ssh.log_in(vm.connection, banner, timeout=deadline.remaining)
        except ssh.LoginRefused as error:
            if isinstance(error, ssh.HostKeyRefused) and self._former_keys:
                vm.know_by(self._former_keys)
                self._former_keys = ()
                return False
            raise BootError(
                f"{vm.name} answers on port {vm.endpoint.port}, but a first command failed: {error}",
                **vm.evidence(),
            ) from error
        except (ConnectionError, NodeRestarted) as error:
            vm.raise_if_dead(cause=error)
            vm.hang_up()
            if deadline.expired:
                raise self._timeout(f"it answers, but no command has run ({error})", deadline) from error
            return False
        return True

    def _timeout(self, what: str, deadline: Deadline) -> BootTimeout:
        if root := self._vm.serial_log.awaited_root(start=self._vm.boot_log):
            what = f"its kernel waits for the root device {root}"
        longer = f"{deadline.timeout * 2:.3g}"
        return BootTimeout(
            f"{self._vm.name} was not ready after {round(deadline.elapsed, 1):g} s: {what}.",
            **self._vm.evidence(),
            tip=f"set boot_timeout={longer} in the marker, or --pidoc-boot-timeout={longer}, if the host is busy",
        )
