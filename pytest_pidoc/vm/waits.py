"""Waiting for a port, a unit or a command in a guest. Each wait has a limit and reports what it saw last.

The check runs in the guest, because a command over SSH costs a tenth of a second under emulation: one command contains
a loop. The loop has a limit of its own, so that it does not run on in a guest after the wait was given up.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pytest_pidoc.errors import SettingsError, WaitError, WaitTimeout
from pytest_pidoc.values.checks import is_whole, shown
from pytest_pidoc.values.deadline import Deadline, deadline_of
from pytest_pidoc.vm.vm import Unanswered

if TYPE_CHECKING:
    from invoke.runners import Result

    from pytest_pidoc.vm.vm import Vm

__all__ = ["require_port", "until_succeeds", "wait_for_port", "wait_for_unit"]

INTERVAL = 0.5  # seconds between two checks
GRACE = 5.0  # seconds to wait for the end of a command that has its own limit in the guest
LINES = 20  # of output, in the error
LISTENERS = 100  # lines: any of them might be the one that the user looks for
ENDED_IT = (124, 137)  # the exit statuses of timeout(1) when it has ended a command
FAILED = 3  # our own status of a unit that has failed


def until_succeeds(vm: Vm, command: str, *, timeout: float) -> Result:
    """Run a command again and again until its status is 0; see `Node.wait_until_succeeds`."""
    if not isinstance(command, str):
        raise SettingsError(
            f"The command must be a string, not {shown(command)}.", tip='pass a shell command such as "ping -c 1 pi-2"'
        )
    deadline, attempts, seen = deadline_of(timeout, INTERVAL), 0, ""
    while not deadline.expired:
        attempts += 1
        try:
            result = _run(vm, command, deadline.remaining)
        except Unanswered as error:
            seen = str(error)
        else:
            if result.ok:
                result.command = command
                return result
            ended = "it did not finish" if result.return_code in ENDED_IT else f"status {result.return_code}"
            if not (seen and deadline.expired and result.return_code in ENDED_IT):  # a last attempt without any time
                seen = f"the last attempt: {ended}\n{_said(result)}"
        deadline.pause()
    raise WaitTimeout(
        f"{shown(command)} did not succeed on {vm.name} within {timeout:g} s "
        f"({attempts} attempt{'s' * (attempts > 1)}).",
        evidence=seen,
        tip=f"set timeout={timeout * 2:g} if it only needs more time",
    )


def wait_for_port(vm: Vm, port: int, *, host: str, timeout: float) -> None:
    """Wait until a connection to a TCP port can be made in the guest; see `Node.wait_for_port`."""
    require_port(port)
    if not isinstance(host, str) or not re.fullmatch(r"[0-9A-Za-z_.:%-]{1,255}", host):
        raise SettingsError(
            f"host must be a host name or an IP address, not {shown(host)}.",
            tip='use "127.0.0.1" for the node itself',
        )
    own = host in ("127.0.0.1", "localhost", "::1", vm.name, vm.launch.lan)
    connect = f"until (exec 3<>/dev/tcp/{host}/{port}) 2>/dev/null; do sleep {INTERVAL}; done"
    deadline = deadline_of(timeout, INTERVAL)
    try:
        if _await(vm, f"bash -c {shlex.quote(connect)}", deadline).ok:
            return
        seen = ""
        if own:  # what listens on another node cannot be seen from here
            listening = _said(_run(vm, "ss -Hltn || netstat -ltn || cat /proc/net/tcp", GRACE), LISTENERS)
            seen = f"what listens on {vm.name}:\n{listening or 'nothing'}"
    except Unanswered as error:
        seen = str(error)
    raise WaitTimeout(
        f"{vm.name} could not connect to {host}:{port} within {timeout:g} s.",
        evidence=seen,
        tip="check that the program runs and listens on that address and port"
        + ("" if own else f", that {host} is up, and that no fault separates the nodes"),
    )


def wait_for_unit(vm: Vm, name: str, *, timeout: float) -> None:
    """Wait until a unit of systemd is active; see `Node.wait_for_unit`."""
    if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z:_.\\@][0-9A-Za-z:_.\\@-]{0,254}", name):
        raise SettingsError(
            f"{shown(name)} is not a valid unit name.", tip='use a name such as "mosquitto" or "ssh.socket"'
        )
    unit = shlex.quote(name)
    loop = (
        f"while :; do case $(systemctl show -p ActiveState {unit}) in *=active|*=reloading) exit 0;;"
        f" *=failed) exit {FAILED};; esac; sleep {INTERVAL}; done"
    )
    deadline, failed, loaded = deadline_of(timeout, INTERVAL), False, True
    try:
        done = _await(vm, f"sh -c {shlex.quote(loop)}", deadline)
        if done.ok:
            return
        failed = done.return_code == FAILED
        loaded = "not-found" not in _run(vm, f"systemctl show -p LoadState {unit}", GRACE).stdout
        seen = _said(_run(vm, f"sudo -n systemctl status --no-pager --full -n {LINES} {unit}", 2 * GRACE))
    except Unanswered as error:
        seen = str(error)
    look = shlex.join([*vm.login.arguments(), "sudo", "journalctl", "-u", name])
    if failed:
        raise WaitError(
            f"The unit {name} failed on {vm.name}.",
            evidence=seen,
            look=look,
            tip=f"correct what its last lines say, and start it again with pi.sudo({f'systemctl restart {unit}'!r})",
        )
    if not loaded:
        raise WaitTimeout(
            f"{vm.name} has no unit {name}; it did not appear within {timeout:g} s.",
            evidence=seen,
            tip="check the name with systemctl list-unit-files, install the package that has it, or run "
            "sudo systemctl daemon-reload after you have written its file",
        )
    raise WaitTimeout(
        f"The unit {name} did not become active on {vm.name} within {timeout:g} s.",
        evidence=seen,
        look=look,
        tip="start it with sudo systemctl start, if nothing else starts it",
    )


def require_port(port: object) -> None:
    """Raise `SettingsError` if that is not a port number."""
    if not is_whole(port, 1, 65535):
        raise SettingsError(
            f"port must be a whole number from 1 to 65535, not {shown(port)}.", tip="pass a number such as 8080"
        )


def _await(vm: Vm, loop: str, deadline: Deadline) -> Result:
    """Run a loop with its own limit in the guest; repeat it if the connection breaks and the node is still running."""
    while True:
        try:
            return _run(vm, loop, deadline.remaining)
        except Unanswered:
            if deadline.expired:
                raise
            deadline.pause()


def _run(vm: Vm, command: str, seconds: float) -> Result:
    """Run a command as the node's user would; after that time timeout(1) ends it in the guest, with its children.

    Raises
    ------
    Unanswered
        The guest itself does not answer.
    NodeDied
        The node has ended.
    """
    # Without exec, timeout(1) would lead a group of processes of its own, which gets no signal if this is given up.
    bounded = f'exec timeout -k 1 {max(seconds, 0.01):.2f} "${{SHELL:-sh}}" -c {shlex.quote(command)}'
    return vm.ask(bounded, timeout=seconds + GRACE)


def _said(result: Result, most: int = LINES) -> str:
    return "\n".join(f"{result.stdout}{result.stderr}".rstrip().splitlines()[-most:])
