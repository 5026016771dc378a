"""All that it takes to start one node, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.images.store.image import Image
from pytest_pidoc.machines import Machine

__all__ = ["Launch"]


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
        Whether it also reaches what only this machine is to reach: see `pytest_pidoc.qemu.guard`.
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
        """Whether QEMU is to run within the border of `pytest_pidoc.qemu.guard`; without a network it needs none."""
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
