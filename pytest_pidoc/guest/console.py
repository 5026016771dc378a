"""The serial console of a node, in pexpect's terms."""

from __future__ import annotations

import base64
import gzip
import re
import secrets
import socket
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from pytest_pidoc.errors import ConsoleError
from pytest_pidoc.guest.output import Output
from pytest_pidoc.host import sockets
from pytest_pidoc.values.deadline import Deadline

if TYPE_CHECKING:
    _Spawn = SocketSpawn[str]
else:  # only its stubs know that it is generic
    _Spawn = SocketSpawn

__all__ = ["Console"]

NUDGE = 3.0  # seconds of silence after which Enter is pressed again: a login program might have just started
SEEN = 4000  # characters that are kept for the error when something does not come
KEPT = 1 << 20  # bytes of output that are kept until they are read; older ones are only in the serial log
#: A shell's prompt, which can change its colour before and after its last character, a space: Raspberry Pi OS does.
PROMPT = r"[$#](?:\x1b\[[0-9;]*m)* (?:\x1b\[[0-9;]*m)*$"
LINE = 512  # characters of a line: a terminal takes 4095, the FIFO of a serial port 8 or 16 at a time


class Console(_Spawn):
    """A pexpect spawn on a node's serial port: ``expect``, ``sendline``, ``before``, ``match`` and the rest.

    The guest's output is always read, even if no test waits for it: QEMU would block, and the guest with it, as soon as
    some 300 bytes are unread.

    If a pattern does not appear, `ConsoleError` shows the last lines, unless ``pexpect.TIMEOUT`` or ``pexpect.EOF`` is
    among the patterns. Every wait has a limit, by default 30 s. QEMU serves one console at a time.

    ::

        with pi.console as console:
            console.sendline("")
            console.expect("login: ", timeout=20)
    """

    def __init__(self, connection: socket.socket, *, name: str = "the node", timeout: float = 30.0) -> None:
        self.node_name = name
        self._seen = ""
        super().__init__(connection, timeout=timeout, encoding="utf-8", codec_errors="replace", use_poll=True)
        self._arrived = bytearray()
        self._ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._take, args=(connection,), name=f"console of {name}", daemon=True).start()

    @classmethod
    def connect(cls, path: Path, *, name: str = "the node", timeout: float = 30.0) -> Console:
        """Connect to the console socket at *path*; *timeout* in seconds is the default of ``expect``.

        Raises
        ------
        ConsoleError
            Nothing listens there.
        """
        try:
            return cls(sockets.connect(path), name=name, timeout=timeout)
        except OSError as error:
            raise ConsoleError(f"Cannot connect to the console of {name}: {error}.", look=str(path)) from error

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Return *size* bytes of output as text at most, as soon as there are any; ``expect`` and ``read`` call this.

        Without output within *timeout* seconds (by default those of the console) it raises ``pexpect.TIMEOUT``, and at
        the console's end ``pexpect.EOF``.
        """
        with self._news:
            if not self._news.wait_for(
                lambda: self._arrived or self._ended, self.timeout if timeout == -1 else timeout
            ):
                raise pexpect.TIMEOUT("Timeout exceeded.")
            data = bytes(self._arrived[:size])
            del self._arrived[:size]
        if not data:
            self.flag_eof = True
            raise pexpect.EOF("QEMU has closed the console.")
        spawn: Any = self  # its stubs leave these two out
        text = str(spawn._decoder.decode(data, final=False))
        spawn._log(text, "read")
        self._seen = (self._seen + text)[-SEEN:]
        return text

    def _take(self, connection: socket.socket) -> None:
        """Read output for `read_nonblocking` until the console is closed."""
        data = b"."
        while data:
            try:
                data = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            with self._news:
                self._arrived += data
                del self._arrived[:-KEPT]
                self._ended = not data
                self._news.notify_all()

    def log_in(
        self, user: str = "", password: str = "", *, deadline: Deadline, check: Callable[[], None] = lambda: None
    ) -> None:
        """Wait for a prompt, enter name and password if it asks for them, and start a plain shell for `run`.

        Parameters
        ----------
        user, password
            Who logs in, if the console does not log in by itself.
        deadline
            When to give up.
        check
            Called every few seconds; raises an error if the node cannot answer any more.

        Raises
        ------
        ConsoleError
            No prompt appears in time, or the login fails.
        """
        # With an automatic login, "login: pi (automatic login)" might have arrived as far as the space.
        prompts: list[Any] = [PROMPT, pexpect.TIMEOUT, *([r"login: $"] if password else [])]
        while not deadline.expired:
            self.sendline("")
            seen = self.expect(prompts, timeout=min(NUDGE, deadline.remaining + 0.1))
            check()
            if seen == 2:
                self._give_password(user, password, deadline)
            if seen != 1:
                # No line editor, no echo, and no messages of the kernel: all output is what a command prints.
                self.sendline("exec sh")
                self.sendline("PS1= PS2=; stty -echo")
                self.run("sudo -n dmesg -n 1", timeout=max(1.0, deadline.remaining))  # sudo eats what is typed ahead
                return
        raise ConsoleError(
            f"The console of {self.node_name} showed no prompt within {deadline.timeout:.0f} s.",
            evidence="\n".join(str(self.before or "").splitlines()[-20:]),
        )

    def _give_password(self, user: str, password: str, deadline: Deadline) -> None:
        self.sendline(user)
        self.expect("assword: ", timeout=max(1.0, deadline.remaining))
        self.sendline(password)
        if self.expect([PROMPT, "Login incorrect"], timeout=max(1.0, deadline.remaining)) == 1:
            raise ConsoleError(
                f"Logging in to {self.node_name} as {user} with its image's password failed on the serial console.",
                tip=f"check that nothing in the guest has changed the password of {user}",
            )

    def run(self, command: str, *, timeout: float = 60.0) -> Output:
        """Run a shell command in the shell that `log_in` started; *timeout* is in seconds.

        Raises
        ------
        ConsoleError
            The command did not finish in time.
        """
        mark, end = secrets.token_hex(8), secrets.token_hex(8)
        packed = base64.b64encode(gzip.compress(command.encode())).decode()
        self.sendline("pidoc=")
        for line in textwrap.wrap(packed, LINE):
            self.sendline(f"pidoc=${{pidoc}}{line}")
        # The marks are written in two halves, so that an echo of this line is not taken for what it prints.
        run = 'sh -c "$(echo $pidoc | base64 -d | gzip -d)" </dev/null 2>&1'
        halves = (f"{each[:8]}''{each[8:]}" for each in (mark, end))
        self.sendline(f"echo {next(halves)}; {run}; echo {next(halves)}:$?:")
        self.expect_exact(f"{mark}\r\n", timeout=timeout)
        self.expect(rf"{end}:(\d+):", timeout=timeout)
        text = str(self.before or "").replace("\r\n", "\n")
        found: Any = self.match
        assert isinstance(found, re.Match)  # noqa: S101 # expect has returned
        return Output(int(found[1]), text)

    def log_out(self) -> None:
        """Leave the shell that `log_in` started."""
        self.sendline("exit")

    def send(self, s: str | bytes) -> int:
        """Write to the console and return the number of bytes written; ``sendline`` calls this."""
        try:
            return int(super().send(s))
        except OSError as error:
            raise ConsoleError(f"The console of {self.node_name} was closed: {error}.") from error

    def expect_list(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for one of several compiled patterns; ``expect`` calls this."""
        return self._bounded(super().expect_list, *args, **kwargs)

    def expect_exact(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for one of several plain texts."""
        return self._bounded(super().expect_exact, *args, **kwargs)

    def _bounded(self, wait: Any, patterns: Any, timeout: float | None = -1, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            # None means to wait for ever in pexpect; here the default limit applies.
            return wait(patterns, -1 if timeout is None else timeout, *args, **kwargs)
        except (pexpect.TIMEOUT, pexpect.EOF, OSError) as error:
            wanted = [getattr(p, "pattern", p) for p in (patterns if isinstance(patterns, list) else [patterns])]
            named = " or ".join(map(repr, wanted))
            took = f"{time.monotonic() - began:.3g} s"
            if isinstance(error, pexpect.TIMEOUT):
                what = f"did not show {named} within {took}"
            else:
                what = f"was closed after {took}, before it showed {named}"
            raise ConsoleError(
                f"The console of {self.node_name} {what}.",
                evidence="\n".join(self._seen.splitlines()[-20:]) or "(it showed no output)",
                tip="" if self._seen else 'call sendline("") first; output from before the connection is in serial_log',
            ) from error

    def __exit__(self, *_: object) -> None:
        self.close()
