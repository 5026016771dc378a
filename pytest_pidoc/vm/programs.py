"""Programs that go on running in a guest while the test does other things.

Each runs in a control group of its own, as a service of systemd does. Its children cannot leave that, even as daemons,
so all of them can be stopped.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import threading
from typing import TYPE_CHECKING

from pytest_pidoc.errors import KernelPanic, NodeDied, PidocError, SettingsError, WaitError, WaitTimeout
from pytest_pidoc.guest.execution import CHECK_INTERVAL, Execution
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.deadline import Deadline, deadline_of
from pytest_pidoc.vm.vm import Unanswered

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Program", "start"]

#: An SSH server allows ten channels for each connection (MaxSessions); commands and copies need some, too.
MOST = 8
START_TIMEOUT = 60.0  # seconds until the program runs
STOP_TIMEOUT = 10.0  # seconds after SIGTERM
GRACE = 15.0  # more seconds for SIGKILL and for a slow guest
LINES = 20  # of output, in an error

_JOIN = """
for root in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    [ -e $root/cgroup.procs ] && mkdir $root/{group} && echo $1 >$root/{group}/cgroup.procs && exit
done
echo the guest has no control groups
exit 1
"""
#: Debian's bash reads .bashrc if an SSH server seems to have called it; the login shell has read it already.
_NOT_AGAIN = "export SHLVL=1; "
_STOP = """
for group in /sys/fs/cgroup/{group} /sys/fs/cgroup/*/{group}; do
    [ -d $group ] || continue
    some='read -r _ <'$group/cgroup.procs
    all() {{ kill -$1 $(cat $group/cgroup.procs); }}
    eval $some && all TERM
    eval $some && all CONT
    timeout {timeout} sh -c "while $some; do sleep 0.1; done" || all KILL
    timeout 5 sh -c "while $some; do sleep 0.05; done" || exit 1
    rmdir $group
done
exit 0
"""


class Program:
    """A program that ``Node.start`` has started; a context manager that stops it.

    Attributes
    ----------
    command
        The shell command.
    pid
        Its process id in the guest: that of the program itself, if the command is nothing but its call.
    """

    def __init__(self, vm: Vm, command: str, execution: Execution, group: str) -> None:
        self.command = command
        self.pid = 0
        self._vm = vm
        self._execution = execution
        self._group = group
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def running(self) -> bool:
        """Whether it runs, as far as is known: it has not ended, and neither has the connection to the node."""
        return not self._execution.ended

    @property
    def status(self) -> int | None:
        """Its exit status, or 128 and the number of the signal that ended it; ``None`` if it runs or nobody knows."""
        return self._execution.status

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._execution.stdout

    @property
    def stderr(self) -> str:
        """The errors that it has printed so far."""
        return self._execution.stderr

    def wait(self, *, timeout: float = 60.0) -> int:
        """Wait until it has ended, and return its exit status; children that it leaves behind are not waited for.

        Parameters
        ----------
        timeout
            Seconds to wait.

        Raises
        ------
        WaitTimeout
            It still runs; the error shows the last lines that it has printed.
        WaitError
            The connection to the node ended before the program did: the guest was restarted, or ``Node.close`` called.
        NodeDied, KernelPanic
            The node ended before the program did, or its kernel panicked.
        """
        vm, deadline = self._vm, deadline_of(timeout, CHECK_INTERVAL / 5)
        when = f"while it ran {shown(self.command)}"
        while self.running:
            vm.check_running()
            if deadline.expired:
                raise WaitTimeout(
                    f"{shown(self.command)} still runs on {vm.name} after {timeout:g} s.",
                    evidence=self._last_lines(),
                    tip=f"set timeout={timeout * 2:g} if it only needs more time, or call stop()",
                )
            deadline.pause()
        self._execution.drain()
        if (status := self.status) is not None:
            return status
        vm.await_death(when)
        raise WaitError(
            f"The connection to {vm.name} ended {when}, so its exit status is unknown.",
            evidence=self._last_lines(),
            tip="start the program again after a restart of the guest",
        )

    def stop(self, *, timeout: float = STOP_TIMEOUT) -> None:
        """End it and all its children, even daemons: by SIGTERM, and after *timeout* seconds by SIGKILL.

        If it has ended already or the node is off, only what is left of it is ended. Calling it again does nothing.

        Raises
        ------
        WaitTimeout
            The guest does not answer.
        PidocError
            A process does not end, even by SIGKILL.
        """
        deadline_of(timeout)
        with self._lock:
            if self._stopped:
                return
            self._end(timeout)
            self._stopped = True
        self._execution.close()
        with contextlib.suppress(ValueError):
            self._vm.dependents.remove(self)

    def close(self) -> None:
        """Do the same as `stop`."""
        self.stop()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.running else f"status={self.status}"
        return f"<Program {shown(self.command)} on {self._vm.name} pid={self.pid} {state}>"

    def _await_start(self) -> None:
        """Wait until the program runs in its control group."""
        vm, deadline = self._vm, Deadline(START_TIMEOUT)
        while self._execution.pid is None:
            if self._execution.ended:
                self._execution.drain()
                if self._execution.pid is not None:  # it was fast
                    break
                vm.await_death(f"before it ran {shown(self.command)}")
                raise PidocError(
                    f"{vm.name} could not start {shown(self.command)}.",
                    evidence=self._execution.preamble,
                    tip=f"check that {vm.launch.image.manifest.user} can use sudo without a password in the guest",
                )
            if deadline.expired:
                raise WaitTimeout(f"{vm.name} did not start {shown(self.command)} within {deadline.timeout:g} s.")
            vm.check_running()
            deadline.pause()
        self.pid = self._execution.pid

    def _end(self, timeout: float) -> None:
        vm = self._vm
        if vm.death() is not None:
            return
        script = _STOP.format(group=self._group, timeout=f"{timeout:.2f}")
        try:
            done = vm.ask(f"sudo -n sh -c {shlex.quote(script)}", timeout=timeout + GRACE)
        except (NodeDied, KernelPanic):  # it has ended, too
            return
        except Unanswered as error:
            raise WaitTimeout(
                f"{vm.name} did not answer when {shown(self.command)} was to be stopped.", **vm.evidence()
            ) from error
        if not done.ok:
            raise PidocError(
                f"{shown(self.command)} cannot be stopped on {vm.name}.", evidence=done.stdout + done.stderr
            )
        self._execution.drain()

    def _last_lines(self) -> str:
        return "\n".join(f"{self.stdout}{self.stderr}".rstrip().splitlines()[-LINES:])


def start(vm: Vm, command: str, *, sudo: bool) -> Program:
    """Start a shell command that is stopped when the connections to the node are closed; see ``Node.start``."""
    if not isinstance(command, str) or not command.strip() or "\0" in command:
        raise SettingsError(
            f"The command must be a non-empty string, not {shown(command)}.",
            tip='pass a shell command such as "./server"',
        )
    vm.raise_if_dead(f"before it ran {shown(command)}")
    sudo = bool(sudo)
    others = [each for each in vm.dependents if isinstance(each, Program) and each.running]
    if len(others) >= MOST:
        raise PidocError(
            f"{len(others)} programs that start() started are running on {vm.name}, and an SSH server allows no more.",
            evidence="\n".join(each.command for each in others),
            tip="stop one of them, or start several by one command",
        )
    group = f"pidoc-{secrets.token_hex(6)}"
    join = shlex.quote(_JOIN.format(group=group))
    with vm.naming_death(f"before it ran {shown(command)}"):
        execution = Execution(
            vm.connection,
            f'{_NOT_AGAIN}exec "${{SHELL:-sh}}" -c {shlex.quote(command)} </dev/null',
            prepare=f"{'' if sudo else 'sudo -n '}sh -c {join} sh $$ || exit",
            root=sudo,
        )
    program = Program(vm, command, execution, group)
    vm.dependents.append(program)
    try:
        program._await_start()
    except BaseException:
        with contextlib.suppress(PidocError):
            program.stop()
        raise
    return program
