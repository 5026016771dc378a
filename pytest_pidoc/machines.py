"""The models: the parts of each emulated Raspberry Pi. A new board is a new row of ``MODELS``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.values.checks import shown

__all__ = ["MIB", "MODELS", "KernelArchive", "Machine", "machine"]

MIB = 1024 * 1024


@dataclass(frozen=True)
class KernelArchive:
    """The place of a kernel for a machine that can boot neither Debian's kernel nor the Pi's own.

    Attributes
    ----------
    place
        A zip archive: ``URL#sha256=HEX``.
    kernel, dtb
        The files in it: a kernel with built-in drivers, and its device tree.
    """

    place: str
    kernel: str
    dtb: str


@dataclass(frozen=True)
class Machine:
    """One model: a QEMU machine, its CPU and memory, and how a guest reaches its devices.

    Attributes
    ----------
    name
        What ``model=`` takes.
    summary
        What the model is for, in a few words.
    architecture
        Debian's name of the guest's architecture: ``arm64``, ``armhf`` or ``armel``.
    binary
        The QEMU program that emulates it.
    machine, cpu
        QEMU's ``-machine`` and ``-cpu``.
    cores
        Number of virtual CPUs.
    memory
        RAM in bytes.
    cold_boot
        Seconds from a cold boot to the first command on the host of ``speed.PROBE_REFERENCE``.
    root
        The disk's name in the guest.
    disk
        QEMU's device name of the disk; ``if=sd`` if the machine has its own slot.
    network
        QEMU's device name of the network card; ``nic`` if it is part of the machine.
    lan
        QEMU's device name of the network card to the cluster's LAN; empty if the model does not support one.
    devices
        More ``-device`` arguments.
    console, baud
        The name of the serial console in the guest, and its speed.
    serial_ports
        What is connected to each of the machine's serial ports: the ``console``, the ``agent``, or ``none``.
    agent
        The guest's name of the port to the agent; empty if it is virtio-serial's.
    kernel, initrd, tree
        The roles of the image's files that it boots; an image without them boots its ``kernel`` and ``initrd``.
    archive
        What it boots in place of the image's files.
    append
        Kernel arguments that it needs.
    extra
        More of QEMU's arguments.
    ram
        The address at which the RAM begins, if forks can boot from ``pytest_pidoc.qemu.bootelf``: a 64-bit machine
        without a boot loader of its own.
    sd_gpio, system_timer, mailbox
        The addresses of a board's GPIO controller, system timer and mailbox to the firmware, if they are
        used to repair a restored board.
    icount
        QEMU's ``-icount``, if the guest's clock must stop while QEMU gets no processor.
    has_counter
        Whether the guest finds a counter of instructions, if its clock counts them: a 64-bit machine with one core.
    fixed_memory
        Whether the board has a fixed size of RAM.
    least_qemu
        The first version of QEMU that supports it.
    board, compatible
        ``model`` and ``compatible`` in the real board's device tree, for models for which QEMU uses other values:
        ``announce_board`` puts them into the node's device tree.
    revision
        The board's revision code, which the Pi's firmware puts into the device tree: of a board the one that QEMU's
        firmware tells, otherwise that of ``board``.
    """

    name: str
    summary: str
    architecture: str
    binary: str
    machine: str
    cpu: str
    cores: int
    memory: int
    cold_boot: float
    root: str = "/dev/vda"
    disk: str = "virtio-blk-pci"
    network: str = "virtio-net-pci,romfile="  # firmware is not used, so do not ask for its file
    lan: str = "virtio-net-pci,romfile="
    devices: tuple[str, ...] = ("virtio-rng-pci",)
    console: str = "ttyAMA0"
    baud: int = 115200
    serial_ports: tuple[str, ...] = ("console",)
    agent: str = ""
    kernel: str = "kernel"
    initrd: str = "initrd"
    tree: str = ""
    archive: KernelArchive | None = None
    append: str = ""
    extra: tuple[str, ...] = ()
    ram: int | None = None
    sd_gpio: int | None = None
    system_timer: int | None = None
    mailbox: int | None = None
    icount: str = ""
    has_counter: bool = False
    fixed_memory: bool = False
    least_qemu: tuple[int, int] = (7, 2)
    board: str = ""
    compatible: tuple[str, ...] = ()
    revision: int = 0

    @property
    def has_display(self) -> bool:
        """Whether it has a display for a screenshot: each board has one, and ``virt`` does not."""
        return self.machine.partition(",")[0] != "virt"

    @property
    def needs_qtest(self) -> bool:
        """Whether a restored machine needs repairs by reads and writes of its registers."""
        return (self.sd_gpio, self.system_timer, self.mailbox) != (None, None, None)

    @property
    def plugs_network(self) -> bool:
        """Whether the network card is a USB device, whose state QEMU cannot save, so that it is plugged into forks."""
        return self.network.startswith("usb-")

    @property
    def readdresses(self) -> bool:
        """Whether a fork must configure the address of its network card again.

        A card that was plugged in has no address, and a built-in card changes its MAC address only while it is off.
        """
        return self.plugs_network or self.network == "nic"


#: Linux sets the BCM2835's only timer to the counter's value of a moment ago and at least 15 us. If QEMU does not run
#: for that long in between (another process does, or its own USB controller), the counter has passed, and the guest
#: hangs for 71 minutes: 2 of 5 boots on a busy host did, with QEMU 10.0. A clock that counts instructions stands still
#: meanwhile. With 8 ns for each it goes as fast as the host's on an idle host, and falls behind on a busy one;
#: shift=auto would catch up, but was 15 s ahead after a restore, and guests never became idle by their own clock.
COUNT_INSTRUCTIONS = "shift=3"

#: The driver of the BCM2835's power domains reads registers that QEMU's board has not: an external abort.
NO_POWER_DOMAINS = "initcall_blacklist=bcm2835_power_driver_init"

#: To give back a protected module's memory, 32-bit Linux flushes the TLB page by page, over all addresses of the RAM,
#: and for each page QEMU stops all four processors: 3 s for one module. A boot of Raspberry Pi OS stood still for over
#: 20 s; the SD card's driver gave up meanwhile and crashed. Memory that is not protected is flushed rarely: 0.1 s.
UNPROTECTED_MODULES = "rodata=off"

#: What all boards with a Broadcom chip have in common.
_Board = partial(
    Machine,
    root="/dev/mmcblk0",
    disk="if=sd",
    network="usb-net",
    lan="usb-net",
    devices=(),
    initrd="initrd/board",
    mailbox=0x3F00B880,
    fixed_memory=True,
)

_BCM2835 = partial(
    _Board,
    architecture="armel",
    binary="qemu-system-arm",
    cpu="arm1176",
    cores=1,
    memory=512 * MIB,
    cold_boot=30.0,
    serial_ports=("console", "agent"),
    agent="/dev/ttyS0",
    append=NO_POWER_DOMAINS,
    sd_gpio=0x20200000,
    system_timer=0x20003000,
    mailbox=0x2000B880,
    icount=COUNT_INSTRUCTIONS,
)

MODELS: dict[str, Machine] = {
    row.name: row
    for row in (
        Machine(
            name="pi3-virt",
            summary="a Pi 3's CPU on virtio disks and network: the fastest",
            architecture="arm64",
            binary="qemu-system-aarch64",
            machine="virt",
            cpu="cortex-a53",
            cores=1,
            memory=512 * MIB,
            cold_boot=8.0,
            ram=0x40000000,
            has_counter=True,
            board="Raspberry Pi 3 Model B Rev 1.2",
            compatible=("raspberrypi,3-model-b", "brcm,bcm2837"),
            revision=0xA02082,
        ),
        Machine(
            name="pi2-virt",
            summary="a Pi 2's CPU on virtio disks and network: the fastest with 32 bits",
            architecture="armhf",
            binary="qemu-system-arm",
            machine="virt",
            cpu="cortex-a7",
            cores=1,
            memory=512 * MIB,
            cold_boot=16.0,
            board="Raspberry Pi 2 Model B Rev 1.1",
            compatible=("raspberrypi,2-model-b", "brcm,bcm2836"),
            revision=0xA01041,
        ),
        Machine(
            name="pi4-virt",
            summary="a Pi 4's CPU on virtio disks and network",
            architecture="arm64",
            binary="qemu-system-aarch64",
            machine="virt",
            cpu="cortex-a72",
            cores=2,
            memory=1024 * MIB,
            cold_boot=8.0,
            ram=0x40000000,
            has_counter=True,
            board="Raspberry Pi 4 Model B Rev 1.4",
            compatible=("raspberrypi,4-model-b", "brcm,bcm2711"),
            revision=0xB03114,
        ),
        _BCM2835(
            name="pi0",
            summary="the board: like pi1, with the device tree of a Pi Zero",
            machine="raspi0",
            tree="dtb/bcm2835-rpi-zero",
            revision=0x920092,
        ),
        _BCM2835(
            name="pi1",
            summary="the board: BCM2835, one ARMv6 core, SD card, USB network",
            machine="raspi1ap",
            tree="dtb/bcm2835-rpi-a-plus",
            revision=0x900021,
        ),
        _Board(
            name="pi2",
            summary="the board: BCM2836, four cores, SD card, USB network",
            architecture="armhf",
            binary="qemu-system-arm",
            machine="raspi2b",
            cpu="cortex-a7",
            cores=4,
            memory=1024 * MIB,
            cold_boot=35.0,
            serial_ports=("console", "agent"),
            agent="/dev/ttyS0",
            tree="dtb/bcm2836-rpi-2-b",
            append=UNPROTECTED_MODULES,
            revision=0xA21041,
            sd_gpio=0x3F200000,
        ),
        _Board(
            name="pi3",
            summary="the board: BCM2837, four cores, SD card, USB network",
            architecture="arm64",
            binary="qemu-system-aarch64",
            machine="raspi3b",
            cpu="cortex-a53",
            cores=4,
            memory=1024 * MIB,
            cold_boot=25.0,
            console="ttyS0",
            serial_ports=("agent", "console"),
            agent="/dev/ttyAMA0",
            tree="dtb/bcm2837-rpi-3-b",
            revision=0xA02082,
            sd_gpio=0x3F200000,
        ),
        _Board(
            name="pi4",
            summary="the board: BCM2711, four cores, SD card, USB network",
            architecture="arm64",
            binary="qemu-system-aarch64",
            machine="raspi4b",
            cpu="cortex-a72",
            cores=4,
            memory=2048 * MIB,
            cold_boot=30.0,
            console="ttyS0",
            # QEMU's mini UART takes the divisor's high byte for the interrupts to enable (it does not know LCR's bit
            # DLAB): at 115200 that is the one for sending, which never ends; at 230400 the one for receiving.
            baud=230400,
            serial_ports=("agent", "console"),
            agent="/dev/ttyAMA0",
            tree="dtb/bcm2711-rpi-4-b",
            revision=0xB03115,
            mailbox=0xFE00B880,
            least_qemu=(9, 0),
        ),
        Machine(
            name="pi1-versatile",
            summary="the machine of pidoc and dockerpi, with their kernel: a Pi 1's CPU on ARM's Versatile board",
            architecture="armel",
            binary="qemu-system-arm",
            machine="versatilepb",
            cpu="arm1176",
            cores=1,
            memory=256 * MIB,
            cold_boot=16.0,
            network="nic",
            lan="",  # its kernel would name a virtio card eth0, and the built-in one eth1
            serial_ports=("console", "agent"),
            agent="/dev/ttyAMA1",
            archive=KernelArchive(
                place="https://github.com/dhruvvyas90/qemu-rpi-kernel/archive/"
                "afe411f2c9b04730bcc6b2168cdc9adca224227c.zip"
                "#sha256=295a22f1cd49ab51b9e7192103ee7c917624b063cc5ca2e11434164638aad5f4",
                kernel="kernel-qemu-4.19.50-buster",
                dtb="versatile-pb.dtb",
            ),
            # The board's sound chip requires an audio backend: one without sound.
            extra=("-audiodev", "none,id=audio0", "-global", "pl041.audiodev=audio0"),
            fixed_memory=True,
        ),
    )
}


def machine(name: str) -> Machine:
    """Return the model called *name*.

    Raises
    ------
    SettingsError
        The model is unknown; the message lists the known ones.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise SettingsError(f"{shown(name)} is not a known model.", tip=f"use one of {', '.join(MODELS)}") from None
