"""The models: what each emulated Raspberry Pi is made of. A new board is a new row of ``MODELS``."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pidoc.errors import SettingsError

__all__ = ["DEFAULT_MODEL", "MIB", "MODELS", "Machine", "machine"]

MIB = 1024 * 1024


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
    console
        The serial port's name in the guest.
    root
        The root device's name in the guest.
    disk_device, network_device
        QEMU's device names of the disk and of the network card.
    cold_boot
        Seconds of a cold boot to a first command on the machine of ``speed.PROBE_REFERENCE``.
    devices
        More ``-device`` arguments.
    ram
        The address at which the RAM begins, if forks may boot from ``pytest_pidoc.bootelf``: a 64-bit machine
        without a boot loader of its own.
    """

    name: str
    summary: str
    architecture: str
    binary: str
    machine: str
    cpu: str
    cores: int
    memory: int
    console: str
    root: str
    disk_device: str
    network_device: str
    cold_boot: float
    devices: tuple[str, ...] = ()
    ram: int | None = None


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
            console="ttyAMA0",
            root="/dev/vda",
            disk_device="virtio-blk-pci",
            network_device="virtio-net-pci,romfile=",  # firmware is not used, so do not ask for its file
            cold_boot=8.0,
            devices=("virtio-rng-pci",),
            ram=0x40000000,
        ),
    )
}

DEFAULT_MODEL = "pi3-virt"


def machine(name: str) -> Machine:
    """Return the model called *name*.

    Raises
    ------
    SettingsError
        There is no such model; the message lists those that exist.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise SettingsError(f"There is no model {name!r}.", tip=f"one of {', '.join(MODELS)}") from None
