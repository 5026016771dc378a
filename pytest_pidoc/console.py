"""The serial console of a node, in pexpect's terms."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from pytest_pidoc import unix
from pytest_pidoc.errors import ConsoleError

if TYPE_CHECKING:
    _Spawn = SocketSpawn[str]
else:  # only its stubs know that it is generic
    _Spawn = SocketSpawn

__all__ = ["Console"]


class Console(_Spawn):
    """A pexpect spawn on a node's serial port: ``expect``, ``sendline``, ``before``, ``match`` and the rest.

    What it does not get to see raises `ConsoleError` with the last lines seen, unless ``pexpect.TIMEOUT`` or
    ``pexpect.EOF`` is among the patterns. QEMU serves one console at a time.

    ::

        with pi.console as console:
            console.sendline("")
            console.expect("login: ", timeout=20)
    """

    def __init__(self, connection: socket.socket, *, name: str = "the node", timeout: float = 30.0) -> None:
        self.node_name = name
        super().__init__(connection, timeout=timeout, encoding="utf-8", codec_errors="replace", use_poll=True)

    @classmethod
    def connect(cls, path: Path, *, name: str = "the node", timeout: float = 30.0) -> Console:
        """Connect to the console socket at *path*; *timeout* in seconds is the default of ``expect``.

        Raises
        ------
        ConsoleError
            Nobody listens there.
        """
        try:
            return cls(unix.connect(path), name=name, timeout=timeout)
        except OSError as error:
            raise ConsoleError(f"The console of {name} cannot be reached: {error}.", look=str(path)) from error

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Read what is there as text; pexpect calls this.

        Its own (4.9) returns bytes whatever the encoding, logs nothing, and with a timeout of 0 it raises
        ``BlockingIOError``.
        """
        try:
            data: Any = super().read_nonblocking(size, timeout)
        except BlockingIOError as error:
            raise pexpect.TIMEOUT("Timeout exceeded.") from error
        if isinstance(data, bytes):
            spawn: Any = self  # its stubs leave these two out
            data = spawn._decoder.decode(data, final=False)
            spawn._log(data, "read")
        return str(data)

    def expect_list(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for one of some compiled patterns; ``expect`` ends here too."""
        return self._bounded(super().expect_list, *args, **kwargs)

    def expect_exact(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for one of some plain texts."""
        return self._bounded(super().expect_exact, *args, **kwargs)

    def _bounded(self, wait: Any, patterns: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return wait(patterns, *args, **kwargs)
        except (pexpect.TIMEOUT, pexpect.EOF, OSError) as error:
            what = "was silent" if isinstance(error, pexpect.TIMEOUT) else "was closed"
            wanted = [getattr(p, "pattern", p) for p in (patterns if isinstance(patterns, list) else [patterns])]
            seen = str(self.before or "") if isinstance(self.before, str) else ""
            raise ConsoleError(
                f"The console of {self.node_name} {what} before it showed {' or '.join(map(repr, wanted))}.",
                evidence="\n".join(seen.splitlines()[-20:]),
            ) from error

    def __exit__(self, *_: object) -> None:
        self.close()
