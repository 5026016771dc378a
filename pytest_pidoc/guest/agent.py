"""The agent in the guest, which gives a node its identity: starts it, and sends the identity to it."""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Callable
from pathlib import Path

from pytest_pidoc.errors import BootError, RestoreFailed
from pytest_pidoc.guest.identity import Identity
from pytest_pidoc.guest.output import Output
from pytest_pidoc.host import sockets
from pytest_pidoc.values.files import AGENT_SOCKET

#: Runs a shell command in the guest.
Shell = Callable[[str], Output]

__all__ = ["PROGRAM", "hold_ssh", "identify", "renew", "start"]

PROGRAM = Path(__file__).with_name("pidoc-agent")
LISTENING = "listening"  # what the program prints
IDENTITY_TIMEOUT = 60.0  # seconds until the agent has answered: on a busy host, 30 were too few for boards


# Replaces ssh.service until the next boot by one that has loaded its libraries, has read its configuration and waits
# for its host key, a FIFO. With -r it forks for a connection and does not execute itself again, which means to load 25
# libraries under emulation. OpenSSL and OpenSSH draw new random numbers from the kernel in every process that was
# forked, so no two machines share any. What restarts the server gives it the usual configuration.
_HOLD_SSH = """
mkdir -p /run/pidoc /run/systemd/system/ssh.service.d
cat > /run/systemd/system/ssh.service.d/pidoc.conf <<END
[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -r -f /run/pidoc/sshd_config \\$SSHD_OPTS
Type=exec
END
mkfifo -m 600 /run/pidoc/host_key
/usr/sbin/sshd -T | sed "s,^hostkey .*,HostKey /run/pidoc/host_key," > /run/pidoc/sshd_config
ln -s /etc/ssh/sshd_config /run/pidoc/sshd_config.usual
systemctl daemon-reload && systemctl stop ssh.service && systemctl start ssh.service
"""


def start(shell: Shell, *, name: str, port: str) -> None:
    """Copy the agent to the node *name* and start it; it waits at the serial *port* for the identity.

    Raises
    ------
    BootError
        The agent did not start.
    """
    program = base64.b64encode(gzip.compress(PROGRAM.read_bytes())).decode()
    # Leave the service of the console: when a user logs out, systemd ends it with all its processes.
    leave = "for each in '' systemd/; do f=/sys/fs/cgroup/${each}cgroup.procs; [ ! -e $f ] || echo $$ >$f; done"
    # The agent prints a line when it listens; after that its file is not needed any more. Other lines can come before
    # and after: of the login shell's profile, of sudo, of Python, and of the kernel on a console.
    wait = f"{leave}; setsid --fork python3 .pidoc-agent {port} </dev/null 2>&1 | sed /^listening/q; rm .pidoc-agent"
    said = shell(f"echo {program} | base64 -d | gzip -d >.pidoc-agent; sudo -n sh -c {shlex.quote(wait)}").text
    if LISTENING not in (line.strip() for line in said.splitlines()):
        raise BootError(
            f"The agent that gives {name} its identity did not start.",
            evidence=said,
            tip="install python3 in the image if it is missing, and let its user run sudo without a password",
        )


def hold_ssh(shell: Shell, *, name: str) -> None:
    """Make the SSH server wait for `identify`, before the machine is saved; open connections stay open.

    Raises
    ------
    BootError
        The server could not be restarted that way.
    """
    held = shell(f"sudo -n sh -ec {shlex.quote(_HOLD_SSH)}")
    if held.status:
        raise BootError(
            f"The SSH server of {name} could not be prepared for saving the machine (status {held.status}).",
            evidence=held.text,
        )


def identify(directory: Path, identity: Identity, *, ssh_held: bool, readdress: bool) -> None:
    """Send the whole identity to the agent of the node in *directory*, and wait until the agent has set it.

    Parameters
    ----------
    directory
        The node's directory.
    identity
        The node's identity.
    ssh_held
        Whether the node's SSH server waits for its key: see `hold_ssh`.
    readdress
        Whether the agent must set the address of the network card: see `Machine.readdresses`.

    Raises
    ------
    RestoreFailed
        The agent did not answer, or could not set the whole identity.
    """
    _ask(directory, lambda: identity.request(ssh_held=ssh_held, readdress=readdress))


def renew(directory: Path, identity: Identity) -> None:
    """Let the agent of a node that has its identity already set only what is new each time that the node goes on.

    Raises
    ------
    RestoreFailed
        The agent did not answer, or could not set it.
    """
    _ask(directory, identity.renewal)


def _ask(directory: Path, request: Callable[[], bytes]) -> None:
    """Send a request, made when it can be sent since it has the time in it, and wait for the answer."""
    name = directory.name
    try:
        with sockets.connect(directory / AGENT_SOCKET, timeout=IDENTITY_TIMEOUT) as port:
            port.sendall(request())
            answer = sockets.read_line(port).decode(errors="replace").strip()
    except OSError as error:
        raise RestoreFailed(f"{name} did not take its identity: {error}.") from error
    if answer != "done":
        raise RestoreFailed(f"{name} did not take its identity: {answer or 'no answer'}.")
