"""The command line of a node's QEMU: the same on every engine, run in the node's directory."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from pytest_pidoc import bootelf
from pytest_pidoc.engines.engine import (
    AGENT_SOCKET,
    BOOT_ELF,
    CONSOLE_SOCKET,
    OVERLAY,
    QMP_SOCKET,
    RAM,
    SERIAL_LOG,
    Launch,
    QemuVersion,
)
from pytest_pidoc.machines import MIB

__all__ = ["AGENT_PORT", "arguments", "empty_overlay", "mac_address", "maps_read_only_files", "overlay_command"]

AGENT_PORT = "org.pytest-pidoc.agent"  # the name of the port in the guest

#: QEMU's cache of translated code, in MiB. Its default of 1 GiB fills up with what a guest ran once.
CODE_CACHE = 64


def arguments(
    launch: Launch, *, guest: Path, forward: str, template: Path | None = None, read_only: bool = False
) -> list[str]:
    """Return the QEMU command line of a node, the program first.

    Parameters
    ----------
    launch
        The node. Its directory must be QEMU's working directory and hold the overlay.
    guest
        The directory of the image's files, as QEMU sees it.
    forward
        Where QEMU listens for the guest's SSH port: ``tcp:127.0.0.1:0`` lets the OS choose a port.
    template
        The directory of the template's files, as QEMU sees it, if the node is forked from one.
    read_only
        Open the template's RAM for reading only, which not every QEMU can: see `maps_read_only_files`.
    """
    machine, manifest = launch.machine, launch.image.manifest
    kernel_arguments = [
        f"root={machine.root}",
        "rw",
        f"console={machine.console},115200",
        "net.ifnames=0",  # the card is eth0 on every model
        f"systemd.hostname={launch.name}",
        manifest.append,
        bootelf.initrd_argument(manifest.files["initrd"].size, machine.ram or 0) if _has_boot_elf(launch) else "",
    ]
    return [
        machine.binary,
        *("-name", f"{launch.cluster}/{launch.name}"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", f"tcg,tb-size={CODE_CACHE}"),
        *_memory(launch, template, read_only=read_only),
        *("-cpu", machine.cpu, "-smp", str(machine.cores)),
        *_kernel(launch, guest, template),
        *("-append", " ".join(argument for argument in kernel_arguments if argument)),
        *_disk(guest / manifest.files["disk"].name, template),
        *("-device", f"{machine.disk_device},drive=disk0"),
        *("-netdev", f"user,id=net0,hostfwd={forward}-:22"),
        *("-device", f"{machine.network_device},netdev=net0,mac={mac_address(launch.cluster, launch.name)}"),
        *(part for device in machine.devices for part in ("-device", device)),
        # The log gets every byte from the first one on, whether or not somebody is connected.
        *(
            "-chardev",
            f"socket,id=serial0,path={CONSOLE_SOCKET},server=on,wait=off,logfile={SERIAL_LOG},logappend=on",
        ),
        *("-serial", "chardev:serial0"),
        *("-chardev", f"socket,id=agent0,path={AGENT_SOCKET},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent0,name={AGENT_PORT}"),
        *("-chardev", f"socket,id=qmp0,path={QMP_SOCKET},server=on,wait=off"),
        *("-mon", "chardev=qmp0,mode=control"),
        *(("-incoming", "defer") if template else ()),
    ]


def _kernel(launch: Launch, guest: Path, template: Path | None) -> list[str]:
    """Return what the machine boots; a fork does only when its guest restarts."""
    if template is not None and _has_boot_elf(launch):
        return ["-kernel", str(template / BOOT_ELF)]
    files = launch.image.manifest.files
    return ["-kernel", str(guest / files["kernel"].name), "-initrd", str(guest / files["initrd"].name)]


def _has_boot_elf(launch: Launch) -> bool:
    return launch.template is not None and (launch.template / BOOT_ELF).exists()


def _memory(launch: Launch, template: Path | None, *, read_only: bool) -> list[str]:
    """Return the machine and its RAM: anonymous, in a file that is to be saved, or a private view of a saved one."""
    size = ["-m", f"{launch.memory // MIB}M"]
    if template is None and not launch.record:
        return ["-machine", launch.machine.machine, *size]
    backend = {
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": launch.memory,
        "mem-path": RAM if template is None else str(template / RAM),
        "share": template is None,
        **({"readonly": True, "rom": "off"} if template and read_only else {}),
    }
    return ["-machine", f"{launch.machine.machine},memory-backend=ram", "-object", json.dumps(backend), *size]


def _disk(base: Path, template: Path | None) -> list[str]:
    """Return the chain of disks, the node's own overlay on top.

    What it lies on is said here and not read from the overlay: a template's files have another path in a container.
    """
    layers = [str(base), *([str(template / OVERLAY)] if template else [])]
    devices: list[dict[str, object]] = []
    for number, layer in enumerate([*layers, OVERLAY]):
        top = number == len(layers)
        devices.append(
            {
                "driver": "qcow2",
                "node-name": "disk0" if top else f"layer{number}",
                "read-only": not top,
                "discard": "unmap",
                "file": {"driver": "file", "filename": layer},
                **({"backing": f"layer{number - 1}"} if number else {}),
            }
        )
    return [part for device in devices for part in ("-blockdev", json.dumps(device))]


def maps_read_only_files(version: QemuVersion) -> bool:
    """Tell whether a QEMU can map a file that it may not write as private RAM: since 8.2 (``rom=off``)."""
    return version.numbers >= (8, 2)


def overlay_command(disk: Path) -> list[str]:
    """Return the command that makes the node's overlay over *disk*, to be run in the node's directory."""
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(disk), OVERLAY]


def empty_overlay(disk: Path) -> bytes:
    """Return an overlay without content for a qcow2 *disk*: what ``qemu-img create`` makes, 25 ms sooner.

    Four clusters of 64 KiB: the header, the refcount table, a refcount block that counts these four, and the L1
    table, which is all zero. See docs/interop/qcow2.rst of QEMU. What it lies on is said on the command line.
    """
    cluster = 1 << 16
    with disk.open("rb") as stream:
        (size,) = struct.unpack_from(">Q", stream.read(32), 24)
    # An entry of the L1 table stands for an L2 table of 8192 clusters.
    entries = -(-size // (cluster * cluster // 8))
    if entries > cluster // 8:
        raise ValueError(f"{disk} is larger than one cluster of the L1 table can tell.")
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, size, 0, entries, 3 * cluster, cluster, 1, 0, 0)
    header += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    table = struct.pack(">Q", 2 * cluster)
    block = struct.pack(">4H", 1, 1, 1, 1)
    return b"".join(part.ljust(cluster, b"\0") for part in (header, table, block, b""))


def mac_address(cluster: str, node: str) -> str:
    """Return a locally administered Ethernet address that is a node's own: ``52:54:00:xx:xx:xx``."""
    tail = hashlib.sha256(f"{cluster}/{node}".encode()).hexdigest()[:6]
    return f"52:54:00:{tail[:2]}:{tail[2:4]}:{tail[4:]}"
