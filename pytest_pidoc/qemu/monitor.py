"""The QEMU monitor: JSON lines over a unix socket.

Protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import MonitorError
from pytest_pidoc.host import documents, sockets
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.deadline import Deadline

__all__ = ["Monitor"]


class Monitor:
    """A connection to one QEMU's monitor. QEMU serves one connection at a time; close it soon.

    ::

        with Monitor.connect(directory / "qmp.sock") as monitor:
            monitor.execute("query-status")["running"]
    """

    def __init__(self, connection: socket.socket, *, name: str = "QEMU") -> None:
        self._socket = connection
        self._name = name
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        """Events seen so far, oldest first; read when commands are executed."""

    @classmethod
    def connect(
        cls, path: Path, *, timeout: float = 10.0, patience: float | None = None, name: str = "QEMU"
    ) -> Monitor:
        """Connect and negotiate; *timeout* in seconds limits this and every later answer.

        QEMU might not listen yet: `connect` waits for it for *timeout* seconds, or *patience* seconds if given.

        Raises
        ------
        MonitorError
            Nothing listens at *path*, or another connection is being served.
        """
        deadline = Deadline(timeout if patience is None else patience)
        while True:
            try:
                connection = sockets.connect(path, timeout=timeout)
                break
            except OSError as error:
                if deadline.expired or not path.parent.exists():
                    raise MonitorError(f"Cannot connect to the monitor of {name}: {error}.", look=str(path)) from error
                deadline.pause()
        monitor = cls(connection, name=name)
        try:
            monitor._greeted(path)
            monitor.execute("qmp_capabilities")
        except BaseException:
            monitor.close()
            raise
        return monitor

    def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command and return what it returns.

        Raises
        ------
        MonitorError
            QEMU rejected the command, has ended, or did not answer in time.
        """
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MonitorError(f"{self._name} is gone: cannot send {command} ({error}).") from error
        while True:
            message = self._receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise MonitorError(f"{self._name} refused {command}: {message['error'].get('desc', message['error'])}")
            self.events.append(message)

    def human(self, line: str) -> str:
        """Execute a command of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Pause the machine for the length of the block; a machine that is paused already stays so.

        Raises
        ------
        MonitorError
            As `execute` does.
        """
        running = self.execute("query-status")["running"]
        if running:
            self.execute("stop")
        try:
            yield
        finally:
            if running:
                self.execute("cont")

    def pid(self) -> int:
        """Return the process id of QEMU, the owner of the socket."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _greeted(self, path: Path) -> None:
        """Wait for QEMU's greeting; an event that occurs while it accepts the connection is sent before that."""
        while "QMP" not in (message := self._receive()):
            if "event" not in message:
                said = shown(json.dumps(message))
                raise MonitorError(f"{path} is not the socket of a QEMU monitor: it sent {said} for a greeting.")
            self.events.append(message)

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except TimeoutError as error:
                raise MonitorError(
                    f"{self._name} did not answer on its monitor within {self._socket.gettimeout():g} s.",
                    tip="check whether the host is overloaded, or the process of QEMU is stopped",
                ) from error
            except OSError as error:
                raise MonitorError(f"{self._name} is gone: {error}.") from error
            if not data:  # an empty read is the end, not a reason to read again
                raise MonitorError(f"{self._name} is gone: its monitor was closed.")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message: object = documents.parse(line)
        except ValueError as error:
            raise MonitorError(f"{self._name} sent something that is not JSON: {line[:80]!r}.") from error
        if not isinstance(message, dict):
            raise MonitorError(f"{self._name} sent something that is not a message: {line[:80]!r}.")
        return message

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Monitor of {self._name}>"
