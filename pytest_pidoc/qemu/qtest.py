"""QEMU's qtest: reads and writes of a machine's physical addresses, while it is paused or running.

Protocol: lines, as the comment at the start of softmmu/qtest.c (system/qtest.c) in QEMU's sources describes them. It
works beside TCG, in every build of QEMU.
"""

from __future__ import annotations

from pathlib import Path

from pytest_pidoc.errors import MonitorError
from pytest_pidoc.host import sockets

__all__ = ["QTest"]


class QTest:
    """A connection to the qtest socket at *path*; *timeout* in seconds limits each answer.

    ::

        with QTest(directory / "qtest.sock") as bus:
            bus.write(address, bus.read(address) | 1)

    Raises
    ------
    MonitorError
        Nothing listens there.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        try:
            self._socket = sockets.connect(path, timeout=timeout)
        except OSError as error:
            raise MonitorError(
                f"Cannot connect to QEMU's qtest socket: {error}.",
                look=str(path),
                tip='read qemu.log beside it, or use start="cold", which needs no such socket',
            ) from error
        self._lines = self._socket.makefile("r", encoding="ascii")

    def read(self, address: int) -> int:
        """Return the 32 bits at a physical address.

        Raises
        ------
        MonitorError
            QEMU has ended, or rejected the address.
        """
        return int(self._command(f"readl {address:#x}"), 16)

    def write(self, address: int, value: int) -> None:
        """Write 32 bits to a physical address.

        Raises
        ------
        MonitorError
            QEMU has ended, or rejected the address.
        """
        self._command(f"writel {address:#x} {value:#x}")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def _command(self, line: str) -> str:
        try:
            self._socket.sendall(f"{line}\n".encode("ascii"))
            while (answer := self._lines.readline()).startswith("IRQ"):
                pass  # a notice of an interrupt, which nothing here uses
        except OSError as error:
            raise MonitorError(f"QEMU did not answer {line!r} on its qtest socket: {error}.") from error
        word, _, rest = answer.strip().partition(" ")
        if word != "OK":
            raise MonitorError(f"QEMU refused {line!r} on its qtest socket: {answer.strip() or 'it is gone'}.")
        return rest

    def __enter__(self) -> QTest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
