"""Everything that is needed to start one node, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.images.store.image import Image
from pytest_pidoc.machines import Machine

__all__ = ["Launch"]


@dataclass(frozen=True)
class Launch:
    """Everything that an engine needs to start one node.

    Attributes
    ----------
    name
        The node's name: ``pi-1``.
    cluster
        The name of the cluster it belongs to; unique among all clusters of the host.
    directory
        The node's own directory, mode 0700. It holds the overlay, the serial log and the sockets.
    machine
        The model.
    image
        The image that it boots.
    memory
        RAM in bytes.
    cpus
        The limit of its share of the host's processors, e.g. ``0.5``; ``None`` for no limit.
    template
        The directory of a saved machine: the node's disk is an overlay of that machine's, and QEMU waits for its state
        instead of booting.
    origin
        The cluster whose node it continues: it was saved with all that it was, and keeps its identity and addresses.
        Empty if the node is a new one.
    record
        Keep the RAM in a file of the node's directory, and the disk apart from the template's, so that the machine can
        be saved.
    port
        The port of the host that leads to its SSH server; by default a free one.
    announce_board
        Show the guest the name of the board whose CPU it has: see `devicetree.tree`.
    mips
        Let the guest's clock count instructions, this many millions in a second; by default the clock is the host's.
    lan
        Its address in the cluster's LAN, whose switch listens on ``lan.sock`` in the node's directory; empty without a
        LAN.
    internet
        Whether the guest can reach anything beyond its forwarded ports.
    host_access
        Whether it can also reach services on the host's loopback interface: see `pytest_pidoc.qemu.guard`.
    booted
        Whether the node boots although it has a template, because its disk has changed since and no longer fits the
        template's memory.
    arguments
        Kernel arguments that were added to the guest's ``cmdline.txt``.
    """

    name: str
    cluster: str
    directory: Path
    machine: Machine
    image: Image
    memory: int
    cpus: float | None = None
    template: Path | None = None
    origin: str = ""
    record: bool = False
    port: int | None = None
    announce_board: bool = False
    mips: float | None = None
    lan: str = ""
    internet: bool = True
    host_access: bool = False
    booted: bool = False
    arguments: str = ""

    @property
    def is_pi(self) -> bool:
        """Whether the guest's device tree says that it is a Raspberry Pi."""
        return self.announce_board or bool(self.machine.tree)

    @property
    def guarded(self) -> bool:
        """Whether QEMU runs with the host isolation of `pytest_pidoc.qemu.guard`; without a network it needs none."""
        return self.internet and not self.host_access

    @property
    def forked(self) -> bool:
        """Whether the node resumes the saved machine instead of booting."""
        return self.template is not None and not self.booted

    @property
    def by_console(self) -> bool:
        """Whether it is saved before its network card is plugged in, so that only its serial console can be used."""
        return self.record and self.machine.plugs_network

    @property
    def cores(self) -> int:
        """The number of virtual CPUs.

        QEMU runs cores alternately while its clock counts instructions, and each core's counter counts for all. So a
        machine that counts has one core, unless it is a board, which needs all of its cores.
        """
        return 1 if self.mips is not None and self.machine.has_counter else self.machine.cores
