"""The program QEMU: which version it is, and how it is run to its end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, Protocol

from pytest_pidoc.errors import EngineUnavailable

__all__ = ["Qemu", "QemuVersion"]


class QemuVersion(NamedTuple):
    """The version of a QEMU: its numbers, and its full text, which differs between builds of one version."""

    numbers: tuple[int, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> QemuVersion:
        """Read what ``qemu-system-aarch64 --version`` prints.

        Raises
        ------
        EngineUnavailable
            The text contains no version.
        """
        found = re.search(r"version (\d+)\.(\d+)\.(\d+).*", text)
        if found is None:
            raise EngineUnavailable(
                "The installed QEMU did not print its version.",
                evidence=text,
                tip="reinstall QEMU: apt-get install --reinstall qemu-system-arm",
            )
        return cls(tuple(int(part) for part in found.groups()), found[0].removeprefix("version "))

    def __str__(self) -> str:
        return "QEMU " + ".".join(map(str, self.numbers))


class Qemu(Protocol):
    """Runs QEMU on the host or in a container."""

    def qemu_version(self, binary: str) -> QemuVersion:
        """Return the version of the QEMU program *binary*.

        Raises
        ------
        EngineUnavailable
            It is not installed.
        """

    def run_qemu(self, binary: str, arguments: list[str], *, timeout: float, directory: Path | None = None) -> None:
        """Run a QEMU to its end, for example to measure the host's speed; it writes files to *directory*, if given.

        Raises
        ------
        EngineUnavailable
            It cannot be started, fails, or does not end within *timeout* seconds.
        """
