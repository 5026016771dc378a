"""What every engine offers, and the plain data that goes in and comes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pytest_pidoc.errors import EngineUnavailable, SettingsError
from pytest_pidoc.images.image import Image
from pytest_pidoc.machines import Machine

__all__ = [
    "Endpoint",
    "Engine",
    "Launch",
    "refuse_more_cpus",
]


@dataclass(frozen=True)
class Launch:
    """All that an engine needs to start one node.

    Attributes
    ----------
    name
        The node's name: ``pi-1``.
    cluster
        The name of the cluster it belongs to; unique among all clusters of this machine.
    directory
        The node's own directory, mode 0700. It holds the overlay, the serial log and the sockets.
    machine
        The model.
    image
        What it boots from.
    memory
        RAM in bytes.
    cpus
        How much of the host's processors it may use, e.g. ``0.5``; ``None`` for no limit.
    template
        The directory of a saved machine: the node's disk lies on that machine's, and it waits for its state instead of
        booting.
    record
        Keep the RAM in a file of the node's directory, so that the machine can be saved.
    port
        Where its SSH server is to be reached on this machine; by default where nobody else listens.
    announce_board
        Tell the guest that it is the board whose CPU it has: `devicetree.tree` says how.
    mips
        How many millions of instructions are a second of the guest's clock, which counts them then; by default the
        clock is the host's.
    lan
        Its address in the cluster's LAN, whose switch listens on ``lan.sock`` in the node's directory; empty if it is
        in none.
    internet
        Whether the guest reaches anything beyond this machine's forwarded ports.
    host_access
        Whether it also reaches what only this machine is to reach: see `pytest_pidoc.guard`.
    booted
        Boot all the same: with a template, from a disk that has changed since, to which its memory no longer fits.
    """

    name: str
    cluster: str
    directory: Path
    machine: Machine
    image: Image
    memory: int
    cpus: float | None = None
    template: Path | None = None
    record: bool = False
    port: int | None = None
    announce_board: bool = False
    mips: float | None = None
    lan: str = ""
    internet: bool = True
    host_access: bool = False
    booted: bool = False

    @property
    def guarded(self) -> bool:
        """Whether QEMU is to run within the border of `pytest_pidoc.guard`; without a network it needs none."""
        return self.internet and not self.host_access

    @property
    def forked(self) -> bool:
        """Whether the node goes on from the saved machine; it boots if not."""
        return self.template is not None and not self.booted

    @property
    def by_console(self) -> bool:
        """Whether it is to be saved before its network card is plugged in: only its serial console can be used."""
        return self.record and self.machine.plugs_network

    @property
    def cores(self) -> int:
        """The number of virtual CPUs.

        QEMU runs cores by turns while its clock counts instructions, and each one's counter counts for all. So a
        machine that counts has one, if it can do with one; a board cannot.
        """
        return 1 if self.mips is not None and self.machine.has_counter else self.machine.cores


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


class QemuVersion(NamedTuple):
    """The version of a QEMU: its numbers, and all that it says, which tells builds of one version apart."""

    numbers: tuple[int, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> QemuVersion:
        """Read what ``qemu-system-aarch64 --version`` prints.

        Raises
        ------
        EngineUnavailable
            There is no version in it.
        """
        found = re.search(r"version (\d+)\.(\d+)\.(\d+).*", text)
        if found is None:
            raise EngineUnavailable("What is called QEMU does not say its version.", evidence=text)
        return cls(tuple(int(part) for part in found.groups()), found[0].removeprefix("version "))

    def __str__(self) -> str:
        return "QEMU " + ".".join(map(str, self.numbers))


class Engine(Protocol):
    """Starts nodes and ends them. It never downloads, and knows nothing of SSH."""

    @property
    def name(self) -> str:
        """``local`` or ``docker``."""

    def qemu_version(self, binary: str) -> QemuVersion:
        """Return the version of the QEMU program *binary*.

        Raises
        ------
        EngineUnavailable
            It is not installed.
        """

    def run_qemu(self, binary: str, arguments: list[str], *, timeout: float, directory: Path | None = None) -> None:
        """Run a QEMU to its end, as the probe of this host's speed does; it writes files to *directory*, if given.

        Raises
        ------
        EngineUnavailable
            It cannot be run, fails, or has not ended after *timeout* seconds.
        """

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
