"""A program on an SSH channel of its own, beside Fabric's commands: what it prints is read while it runs.

Fabric waits until every process that inherited the output has closed it. Here, the exit status counts.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    import fabric

__all__ = ["CHECK_INTERVAL", "Execution"]

OPENING = 60.0  # seconds until the guest must have accepted a channel
CHECK_INTERVAL = 0.25  # seconds between two checks whether the guest can still answer
POLL = 0.02
QUIET = 0.3  # seconds without output after which the rest is taken to belong to a child that runs on
CHUNK = 1 << 16


class Execution:
    """A shell script that runs in a guest; it begins after the login shell and sudo have said what they say.

    Parameters
    ----------
    connection
        The connection to the guest; opened if necessary.
    script
        For ``sh``. What it prints is collected.
    prepare
        Runs before it. What it prints is in `preamble`.
    root
        Whether both run as root.
    collect
        Whether the output is collected; otherwise the caller fetches it with `receive`. Errors are always collected.
    """

    def __init__(
        self,
        connection: fabric.Connection,
        script: str,
        *,
        prepare: str = "",
        root: bool = False,
        collect: bool = True,
    ) -> None:
        from pytest_pidoc.guest import ssh_signals

        mark = f"pidoc-{secrets.token_hex(8)}"
        whole = f"{prepare}\nprintf '%s %s\\n' {mark} $$\nprintf '%s\\n' {mark} >&2\n{script}"
        connection.open()
        ssh_signals.hear_signals(connection.transport)
        self._exit_status = ssh_signals.exit_status
        self._channel = connection.transport.open_session(timeout=OPENING)
        self._channel.settimeout(CHECK_INTERVAL)
        self._output, self._errors = _Stream(mark.encode() + b" "), _Stream(mark.encode())
        self._channel.exec_command(f"exec {'sudo -n ' * root}sh -c {shlex.quote(whole)}")
        sources = [(self._channel.recv_stderr, self._errors)]
        if collect:
            sources.append((self._channel.recv, self._output))
        self._threads = [threading.Thread(target=self._pump, args=each, daemon=True) for each in sources]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int | None:
        """The process id of the shell that runs the script; ``None`` until the script has begun."""
        words = self._output.mark_line.split()
        return int(words[1]) if len(words) > 1 else None

    @property
    def preamble(self) -> str:
        """What was printed before the script began."""
        return _text(self._output.before + self._errors.before)

    @property
    def stdout(self) -> str:
        """What the script has printed so far."""
        return _text(self._output.after)

    @property
    def stderr(self) -> str:
        """The errors that the script has printed so far."""
        return _text(self._errors.after)

    @property
    def status(self) -> int | None:
        """The exit status, 128 and the number of a signal that ended it; ``None`` as long as none was received."""
        return self._exit_status(self._channel)

    @property
    def ended(self) -> bool:
        """Whether the program or the connection has ended."""
        return self.status is not None or self._channel.closed

    def send(self, data: bytes, check: Callable[[], None]) -> None:
        """Send all of *data* to its standard input; *check* is called while the guest takes none.

        Raises
        ------
        OSError
            The program has ended, or the connection broke.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._channel.send(view) :]
            except TimeoutError:
                check()
            if self.ended:
                raise BrokenPipeError("the program has ended")

    def send_end(self) -> None:
        """Close its standard input."""
        self._channel.shutdown_write()

    def receive(self, size: int, check: Callable[[], None]) -> bytes:
        """Return at most *size* bytes of the script's output, none at the end; *check* is called while none comes."""
        while True:
            if self._output.mark_line and (data := self._output.take(size)):
                return data
            try:
                data = self._channel.recv(CHUNK)
            except TimeoutError:
                check()
                continue
            if not data:
                return b""
            self._output.feed(data)

    def await_end(self, check: Callable[[], None]) -> None:
        """Wait until the program or the connection has ended; *check* is called meanwhile."""
        while not self.ended:
            check()
            time.sleep(POLL)
        self.drain()

    def drain(self) -> None:
        """Wait until the program's output has arrived: it is closed, or silent."""
        seen = -1
        while seen != (seen := len(self._output.after) + len(self._errors.after)):
            for thread in self._threads:
                thread.join(QUIET)

    def close(self) -> None:
        """Close the channel."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()
        for thread in self._threads:
            thread.join(1)

    def _pump(self, receive: Callable[[int], bytes], stream: _Stream) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                try:
                    data = receive(CHUNK)
                except TimeoutError:
                    continue
                if not data:
                    return
                stream.feed(data)


class _Stream:
    """What was printed, before a line that begins with a mark and after it."""

    def __init__(self, mark: bytes) -> None:
        self.before = b""
        self.mark_line = b""
        self.after = bytearray()
        self._mark = mark

    def feed(self, data: bytes) -> None:
        if self.mark_line:
            self.after += data
            return
        self.before += data
        before, mark, rest = self.before.partition(self._mark)
        if mark and b"\n" in rest:
            line, _, after = rest.partition(b"\n")
            self.before, self.after, self.mark_line = before, bytearray(after), mark + line

    def take(self, size: int) -> bytes:
        taken = bytes(self.after[:size])
        del self.after[:size]
        return taken


def _text(data: bytes | bytearray) -> str:
    return bytes(data).decode("utf-8", "replace")
