"""Waiting for something in a guest: a port, a unit, a command that succeeds. Each wait ends, and says what it saw.

What is waited for is looked at in the guest, since a command over SSH costs a tenth of a second under emulation: one
command has a loop in it. It ends by itself, so that nothing goes on in a guest that nobody waits for any more.
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

__all__ = ["until_succeeds", "wait_for_port", "wait_for_unit"]

INTERVAL = 0.5  # seconds between two looks
GRACE = 5.0  # seconds until a command must have ended that ends itself in the guest
LINES = 20  # of what was seen, in the error
LISTENERS = 100  # lines, of which each may be the one that is looked for
ENDED_IT = (124, 137)  # the statuses of timeout(1) when it has ended a command
FAILED = 3  # our own status of a unit that has failed


def until_succeeds(vm: Vm, command: str, *, timeout: float) -> Result:
    """Run a command again and again until its status is 0; see `Node.wait_until_succeeds`."""
    if not isinstance(command, str):
        raise SettingsError(f"{shown(command)} is no command.", tip='a text for the shell, such as "ping -c 1 pi-2"')
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
            ended = "it has not ended" if result.return_code in ENDED_IT else f"status {result.return_code}"
            if not (seen and deadline.expired and result.return_code in ENDED_IT):  # which was given no time
                seen = f"the last time: {ended}\n{_said(result)}"
        deadline.pause()
    raise WaitTimeout(
        f"{shown(command)} has not succeeded on {vm.name} within {timeout:g} s, tried {attempts} times.",
        evidence=seen,
        tip=f"timeout={timeout * 2:g} if it only takes longer",
    )


def wait_for_port(vm: Vm, port: int, *, host: str, timeout: float) -> None:
    """Wait until a connection to a TCP port can be made in the guest; see `Node.wait_for_port`."""
    require_port(port)
    if not isinstance(host, str) or not re.fullmatch(r"[0-9A-Za-z_.:%-]{1,255}", host):
        raise SettingsError(
            f"{shown(host)} is no name or address of a host.", tip='"127.0.0.1", which is the node itself'
        )
    connect = f"until (exec 3<>/dev/tcp/{host}/{port}) 2>/dev/null; do sleep {INTERVAL}; done"
    deadline = deadline_of(timeout, INTERVAL)
    try:
        if _await(vm, f"bash -c {shlex.quote(connect)}", deadline).ok:
            return
        listening = _said(_run(vm, "ss -Hltn || netstat -ltn || cat /proc/net/tcp", GRACE), LISTENERS)
        seen = f"what listens on {vm.name}:\n{listening or 'nothing'}"
    except Unanswered as error:
        seen = str(error)
    raise WaitTimeout(
        f"{vm.name} could not connect to {host}:{port} within {timeout:g} s.",
        evidence=seen,
        tip="does the program run, and does it listen on that address and port?",
    )


def wait_for_unit(vm: Vm, name: str, *, timeout: float) -> None:
    """Wait until a unit of systemd is active; see `Node.wait_for_unit`."""
    if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z:_.\\@][0-9A-Za-z:_.\\@-]{0,254}", name):
        raise SettingsError(f"{shown(name)} is no name of a unit.", tip='a name such as "mosquitto" or "ssh.socket"')
    unit = shlex.quote(name)
    loop = (
        f"while :; do case $(systemctl show -p ActiveState {unit}) in *=active|*=reloading) exit 0;;"
        f" *=failed) exit {FAILED};; esac; sleep {INTERVAL}; done"
    )
    deadline, failed = deadline_of(timeout, INTERVAL), False
    try:
        done = _await(vm, f"sh -c {shlex.quote(loop)}", deadline)
        if done.ok:
            return
        failed = done.return_code == FAILED
        seen = _said(_run(vm, f"sudo -n systemctl status --no-pager --full -n {LINES} {unit}", 2 * GRACE))
    except Unanswered as error:
        seen = str(error)
    look = shlex.join([*vm.login.arguments(), "sudo", "journalctl", "-u", name])
    if failed:
        raise WaitError(f"The unit {name} has failed on {vm.name}.", evidence=seen, look=look)
    raise WaitTimeout(
        f"The unit {name} was not active on {vm.name} within {timeout:g} s.",
        evidence=seen,
        look=look,
        tip="systemctl start it first, if nothing else does",
    )


def require_port(port: object) -> None:
    """Raise `SettingsError` if that is no number of a port."""
    if not is_whole(port, 1, 65535):
        raise SettingsError(f"{shown(port)} is no port.", tip="a whole number from 1 to 65535")


def _await(vm: Vm, loop: str, deadline: Deadline) -> Result:
    """Run a loop that ends by itself in the guest; once more when the connection breaks and the node lives on."""
    while True:
        try:
            return _run(vm, loop, deadline.remaining)
        except Unanswered:
            if deadline.expired:
                raise
            deadline.pause()


def _run(vm: Vm, command: str, seconds: float) -> Result:
    """Run a command as the node's user would; after that time it is ended in the guest, with its children.

    Raises
    ------
    Unanswered
        The guest itself does not answer.
    NodeDied
        The node has ended.
    """
    bounded = f'timeout -k 1 {max(seconds, 0.01):.2f} "${{SHELL:-sh}}" -c {shlex.quote(command)}'
    return vm.ask(bounded, timeout=seconds + GRACE)


def _said(result: Result, most: int = LINES) -> str:
    return "\n".join(f"{result.stdout}{result.stderr}".rstrip().splitlines()[-most:])
