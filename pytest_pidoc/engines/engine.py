"""What every engine offers, and the plain data that goes in and comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.program import Qemu

__all__ = [
    "Endpoint",
    "Engine",
    "how_qemu_ended",
    "refuse_more_cpus",
]


@dataclass(frozen=True)
class Endpoint:
    """Where a started node is: plain data that another process can use.

    Attributes
    ----------
    engine
        The engine that started it: ``local`` or ``docker``.
    host, port
        Where its SSH server is reached from the host.
    directory
        The node's directory, with ``serial.log``, ``qmp.sock`` and ``console.sock``.
    handle
        The engine's own name for it: a process id with its start time, or a container id.
    """

    engine: str
    host: str
    port: int
    directory: Path
    handle: str


class Engine(Qemu, Protocol):
    """Starts nodes and ends them. It never downloads, and knows nothing of SSH."""

    @property
    def name(self) -> str:
        """``local`` or ``docker``."""

    def start(self, launch: Launch) -> Endpoint:
        """Start a node and return as soon as its QEMU runs; an overlay that is already there is used again.

        Raises
        ------
        NodeDied
            QEMU or the container ended right after its start; the message shows its last output. Nothing is left.
        """

    def death(self, endpoint: Endpoint) -> str | None:
        """Return how the node ended, in a few words, or ``None`` while it runs."""

    def stop(self, endpoint: Endpoint) -> None:
        """End the node immediately, as a power cut does. If it has ended already, do nothing."""

    def limit_cpus(self, endpoint: Endpoint, cpus: float | None) -> float | None:
        """Limit a running node to that share of the host's processors; ``None`` lifts the limit.

        Returns
        -------
        The limit before.

        Raises
        ------
        FaultError
            The engine cannot limit processors on this host.
        """


def refuse_more_cpus(launch: Launch, there: int) -> None:
    """Raise `SettingsError` if a node would use more processors than the host has, which is *there*."""
    if launch.cpus is not None and launch.cpus > there:
        raise SettingsError(
            f"cpus of {launch.name} must be at most {there}, the processors of the host, not {launch.cpus:g}.",
            tip=f"set cpus to {there} or less, or leave it out",
        )


def how_qemu_ended(status: int) -> str:
    """Describe an exit status as `subprocess` gives it: negative if a signal killed QEMU."""
    return f"QEMU was killed by signal {-status}" if status < 0 else f"QEMU ended with status {status}"
