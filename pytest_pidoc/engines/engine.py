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
        Where its SSH server is reached from this machine.
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
            QEMU or the container ended at once; the message has its last words. Nothing is left.
        """

    def death(self, endpoint: Endpoint) -> str | None:
        """Return how the node ended, in a few words, or ``None`` while it runs."""

    def stop(self, endpoint: Endpoint) -> None:
        """End the node at once, as a power cut does. It is no error when it is gone already."""

    def limit_cpus(self, endpoint: Endpoint, cpus: float | None) -> float | None:
        """Let a node that runs use that much of the host's processors from now on, or without limit.

        Returns
        -------
        What it might use before.

        Raises
        ------
        FaultError
            That cannot be done here.
        """


def refuse_more_cpus(launch: Launch, there: int) -> None:
    """Raise `SettingsError` if a node is to have more processors than *there* are."""
    if launch.cpus is not None and launch.cpus > there:
        raise SettingsError(
            f"{launch.name} cannot have cpus={launch.cpus:g}: there are {there}.", tip="less, or leave cpus out"
        )
