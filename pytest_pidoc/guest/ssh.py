"""SSH to a node with Fabric: opens and checks a connection, and interprets its exceptions."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.host import documents

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric

__all__ = [
    "LOG",
    "HostKeyRefused",
    "Login",
    "LoginRefused",
    "Unanswered",
    "broke",
    "known_hosts",
    "log_in",
    "pin",
    "quoted",
    "unexpanded",
]

LOG = "pytest_pidoc.ssh"  # the logger of paramiko's connections to nodes


def _demote(record: logging.LogRecord) -> bool:
    """Make what paramiko logs of a connection debug messages, and tell whether the logger takes those.

    When a guest restarts or its power is cut, paramiko logs the traceback of the broken connection as an error, which
    pytest shows with each failed test. Whoever uses the connection gets the exception anyway.
    """
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


logging.getLogger(LOG).addFilter(_demote)


class LoginRefused(Exception):
    """A login or a first command failed in a way that a retry cannot fix."""


class HostKeyRefused(LoginRefused):
    """The server has another host key than the pinned one."""


class Unanswered(Exception):
    """The guest does not answer or the connection to it broke, although its QEMU is running.

    Attributes
    ----------
    timed_out
        Whether the command's time was up; otherwise the connection broke.
    """

    def __init__(self, what: str, *, timed_out: bool = False) -> None:
        super().__init__(what)
        self.timed_out = timed_out


@dataclass(frozen=True)
class Login:
    """Everything that is needed to log in to a node.

    Attributes
    ----------
    host, port
        The address of its SSH server.
    user
        The user to log in as.
    private_key
        The file with the private key.
    known_hosts
        The file with its pinned host keys.
    """

    host: str
    port: int
    user: str
    private_key: Path
    known_hosts: Path

    def arguments(self) -> list[str]:
        """Return the OpenSSH command that opens a session."""
        # -i takes no path with "%": it looks for the file first, and expands its name afterwards.
        plain = "%" not in str(self.private_key)
        key = ("-i", str(self.private_key)) if plain else ("-o", f"IdentityFile={quoted(self.private_key)}")
        return [
            *("ssh", "-F", "none", *key, "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={quoted(self.known_hosts)}", "-o", "StrictHostKeyChecking=yes"),
            *("-p", str(self.port), f"{self.user}@{self.host}"),
        ]

    def connection(self, check: Callable[[], None] = lambda: None) -> fabric.Connection:
        """Return a Fabric connection that is not open yet; it accepts the pinned host keys and no other.

        *check* is called while a command runs; it raises an error if the command cannot finish any more.
        """
        import fabric
        import paramiko

        from pytest_pidoc.guest.ssh_signals import SignalledRemote

        connection = fabric.Connection(
            self.host,
            user=self.user,
            port=self.port,
            connect_kwargs={
                "pkey": paramiko.PKey.from_path(self.private_key),
                "look_for_keys": False,
                "allow_agent": False,
            },
            config=fabric.Config(
                overrides={
                    "load_ssh_configs": False,  # a user's Host * must not reroute the nodes
                    # pytest captures stdin, so it must not be read; output is in the result and in the exception
                    "run": {"hide": True, "in_stream": False},
                    "sudo": {"hide": True, "in_stream": False},
                    "runners": {"remote": partial(SignalledRemote, check=check)},
                }
            ),
        )
        connection.client.set_log_channel(LOG)
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        pin(connection, self.known_hosts)
        return connection


def unexpanded(path: Path) -> str:
    """Return a path with its ``%`` escaped, so that OpenSSH does not expand ``%h`` and the like."""
    return str(path).replace("%", "%%")


def quoted(path: Path) -> str:
    """Return a path as one word of OpenSSH's configuration, whatever characters it contains."""
    return '"{}"'.format(unexpanded(path).replace("\\", "\\\\").replace('"', '\\"'))


def known_hosts(path: Path, host: str, port: int, keys: Sequence[str]) -> Path:
    """Let the file at *path* pin those public host keys of the server at *port* of *host*, and return the path."""
    content = "".join(f"[{host}]:{port} {key}\n" for key in keys).encode("ascii")
    with contextlib.suppress(OSError, ValueError):  # the file does not exist, or is not a regular file
        if documents.content(path) == content:
            return path
    documents.write(path, content)
    return path


def pin(connection: fabric.Connection, known_hosts: Path) -> None:
    """Let a connection accept only the host keys in that file, from the next time that it is opened."""
    connection.client.get_host_keys().clear()
    connection.client.load_host_keys(str(known_hosts))


def log_in(connection: fabric.Connection, banner: socket.socket, *, timeout: float) -> None:
    """Open *connection* on a socket that has shown the server's banner, and run a first command.

    Parameters
    ----------
    connection
        Not open yet.
    banner
        The socket; closed if this fails.
    timeout
        Seconds for each step. Emulated cryptography on a crowded host takes seconds itself.

    Raises
    ------
    LoginRefused
        The host key or ours is not accepted, or the command failed.
    ConnectionError
        The connection broke or was too slow: a busy server drops some, so the caller can try again.
    """
    import paramiko
    from invoke.exceptions import CommandTimedOut, UnexpectedExit

    limits = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout", "channel_timeout"), timeout)
    usual = connection.connect_kwargs
    connection.connect_kwargs = {**usual, **limits, "sock": banner}
    try:
        connection.open()
        connection.run("true", timeout=max(1, int(timeout)))
    except paramiko.BadHostKeyException as error:
        raise HostKeyRefused(
            "the server has another host key than its image, so another program might be listening on that port"
        ) from error
    except (paramiko.AuthenticationException, UnexpectedExit) as error:
        raise LoginRefused(str(error)) from error
    except (paramiko.SSHException, OSError, EOFError, CommandTimedOut) as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.connect_kwargs = usual
        if not connection.is_connected:
            banner.close()


def broke(outcome: object) -> bool:
    """Tell whether a connection broke, from what a command on it raised or returned."""
    from invoke.exceptions import UnexpectedExit
    from invoke.runners import Result
    from paramiko import SSHException

    if isinstance(outcome, UnexpectedExit):
        outcome = outcome.result
    if isinstance(outcome, Result):
        return bool(outcome.exited < 0)  # no status came
    of_a_file = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
    return isinstance(outcome, (OSError, EOFError, SSHException)) and not isinstance(outcome, of_a_file)
