"""The command line of a node's QEMU: the same on every engine, run in the node's directory."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from pytest_pidoc.images.store.image import ImageFile
from pytest_pidoc.machines import MIB, Machine
from pytest_pidoc.qemu import bootelf, events
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.values.files import (
    AGENT_SOCKET,
    BOOT_ELF,
    CONSOLE_SOCKET,
    DEVICE_TREE,
    LAN_SOCKET,
    OVERLAY,
    QMP_SOCKET,
    QTEST_SOCKET,
    RAM,
    SERIAL_LOG,
)

__all__ = [
    "AGENT_PORT",
    "LAN_CARD",
    "arguments",
    "boot_files",
    "lan_mac_address",
    "mac_address",
    "maps_read_only_files",
    "network_cards",
]

LAN_CARD = "lan-card"  # QEMU's name of the card to the LAN

AGENT_PORT = "org.pytest-pidoc.agent"  # the name of the port in the guest

#: QEMU's cache of translated code, in MiB. Its default of 1 GiB fills up with what a guest ran once.
CODE_CACHE = 64


#: Linux cannot ask an SD card to flush its cache, and so treats every write as complete. QEMU's default cache would
#: keep the qcow2 tables in its memory: when it was killed, everything since the start was lost, although the guest had
#: synced. Written through, the tables are in the host's cache after each write. Flushing to the host's disk as well
#: (QEMU writes single blocks of 512 bytes to a card, which then take five to ten times as long) would help only if the
#: host crashes, and then the nodes are lost anyway. ``no-flush`` is set for the file only: with it on the qcow2 layer,
#: by ``cache.no-flush`` or ``cache=unsafe``, QEMU 10.0 would not write the tables either.
SD_CACHE = "cache.writeback=off,file.cache.no-flush=on"

#: QEMU (7.2 to 10.1) resets a board when its watchdog is started, and not when its time is over. An initrd of the
#: recipe ``debian`` loads the kernel's own, softdog, first: it is /dev/watchdog, and works. Other initrds and kernels
#: start with the board's, and systemd would start that at each boot if RuntimeWatchdogSec= is set, and at each reboot
#: by default. The second one is softdog, if somebody loads it. (systemd has this argument since version 248.)
WATCHDOG = "systemd.watchdog_device=/dev/watchdog1"


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
        The directory of the template's files, as QEMU sees it, if the node's disk is an overlay of one.
    read_only
        Open the template's RAM for reading only, which not every QEMU can: see `maps_read_only_files`.
    """
    machine, manifest = launch.machine, launch.image.manifest
    saved = template if launch.forked else None
    kernel_arguments = [
        f"root={_root(machine.root, manifest.partition)}",
        "rw",
        f"console={machine.console},{machine.baud}",
        "net.ifnames=0",  # the card is eth0 on every model
        # A USB card's driver makes one up at each boot; a machine that is to be saved has no card to wait for.
        f"pidoc.mac={mac_address(launch)}" if machine.plugs_network and not launch.record else "",
        machine.append,
        WATCHDOG if machine.mailbox is not None and machine.initrd not in manifest.files else "",
        manifest.append,
        bootelf.initrd_argument(manifest.files["initrd"].size, machine.ram or 0) if _has_boot_elf(launch) else "",
        # In cmdline.txt, where playbooks look for it; images of others have it anyway.
        "rootwait" if launch.is_pi and not manifest.stock else "",
        launch.arguments,
    ]
    return [
        machine.binary,
        *("-name", f"{launch.cluster}/{launch.name}"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", f"tcg,tb-size={CODE_CACHE}"),
        *_clock(launch),
        *_memory(launch, saved, read_only=read_only),
        *("-cpu", machine.cpu, "-smp", str(launch.cores)),
        *_kernel(launch, guest, saved),
        *("-append", " ".join(argument for argument in kernel_arguments if argument)),
        *(("-dtb", DEVICE_TREE) if machine.tree or launch.announce_board or "dtb" in manifest.files else ()),
        *_disk(launch, guest / manifest.files["disk"].name, None if launch.record else template),
        *("-netdev", f"user,id=net0{'' if launch.internet else ',restrict=on'},hostfwd={forward}-:22"),
        *_network(launch),
        *(part for device in machine.devices for part in ("-device", device)),
        *_serial_ports(machine),
        *machine.extra,
        *("-chardev", f"socket,id=qmp0,path={QMP_SOCKET},server=on,wait=off"),
        *("-mon", "chardev=qmp0,mode=control"),
        *events.arguments(),
        *(("-incoming", "defer", *_qtest(machine)) if saved else ()),
    ]


def _clock(launch: Launch) -> tuple[str, ...]:
    """Return the arguments that make the guest's clock count instructions of 2 to the power of ``shift`` ns each."""
    if launch.mips is not None:
        return "-icount", f"shift={round(math.log2(1000 / launch.mips))}"
    return ("-icount", launch.machine.icount) if launch.machine.icount else ()


def _qtest(machine: Machine) -> tuple[str, ...]:
    """Return the arguments that open the socket for `pytest_pidoc.qemu.repairs`."""
    if not machine.needs_qtest:
        return ()
    chardev = f"socket,id=qtest,path={QTEST_SOCKET},server=on,wait=off"  # QEMU 7.2 takes one of that name only
    return "-chardev", chardev, "-qtest", "chardev:qtest", "-qtest-log", "none"


def network_cards(launch: Launch) -> list[str]:
    """Return the ``-device`` arguments of the node's network cards, and of what they are plugged into.

    A board has one USB port. The guest polls a hub all the time, so a single card is plugged into the port itself: by
    default QEMU would put a hub in between.
    """
    machine = launch.machine
    card, lan = (
        f"id=nic0,netdev=net0,mac={mac_address(launch)}",
        f"id={LAN_CARD},netdev=lan0,mac={lan_mac_address(launch)}",
    )
    if not machine.plugs_network:
        own = [] if machine.network == "nic" else [f"{machine.network},{card}"]
        return [*own, *([f"{machine.lan},{lan}"] if machine.lan else [])]
    if not launch.lan:
        return [f"{machine.network},port=1,{card}"]
    return ["usb-hub,port=1,id=hub0", f"{machine.network},port=1.1,{card}", f"{machine.lan},port=1.2,{lan}"]


def _network(launch: Launch) -> list[str]:
    machine = launch.machine
    # The switch listens. A card without a LAN connects to a socket that does not exist: if QEMU listened instead, its
    # link would be up for a moment, and a packet that the guest sends meanwhile would crash QEMU (7.2 to 10.0).
    lan = f"stream,id=lan0,server=off,addr.type=unix,addr.path={LAN_SOCKET}"
    plugged_later = machine.plugs_network and (launch.record or launch.forked)
    return [
        *(("-net", f"nic,netdev=net0,macaddr={mac_address(launch)}") if machine.network == "nic" else ()),
        *(("-netdev", lan) if machine.lan and (launch.lan or not machine.plugs_network) else ()),
        *(() if plugged_later else (part for card in network_cards(launch) for part in ("-device", card))),
    ]


def _serial_ports(machine: Machine) -> list[str]:
    """Return the connections of the machine's serial ports, and a virtio port for the agent if none is the agent's."""
    chardevs = {
        # The log gets every byte from the first one on, even if no client is connected.
        "console": f"socket,id=console0,path={CONSOLE_SOCKET},server=on,wait=off,logfile={SERIAL_LOG},logappend=on",
        "agent": f"socket,id=agent0,path={AGENT_SOCKET},server=on,wait=off",
    }
    return [
        *(part for chardev in chardevs.values() for part in ("-chardev", chardev)),
        *(part for port in machine.serial_ports for part in ("-serial", _SERIAL[port])),
        *(
            ()
            if "agent" in machine.serial_ports
            else ("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent0,name={AGENT_PORT}")
        ),
    ]


_SERIAL = {"console": "chardev:console0", "agent": "chardev:agent0", "none": "null"}


def _root(disk: str, partition: int) -> str:
    """Return the device of a disk's partition, as the kernel names it: ``/dev/vda2``, ``/dev/mmcblk0p2``."""
    return f"{disk}{'p' if disk[-1].isdigit() else ''}{partition}" if partition else disk


def boot_files(launch: Launch) -> tuple[ImageFile, ImageFile | None]:
    """Return the kernel and the initrd of the image that the machine boots; some images have no initrd."""
    files, machine = launch.image.manifest.files, launch.machine
    return files.get(machine.kernel) or files["kernel"], files.get(machine.initrd) or files.get("initrd")


def _kernel(launch: Launch, guest: Path, saved: Path | None) -> list[str]:
    """Return the kernel and initrd arguments; a fork uses them only when its guest restarts."""
    if saved is not None and _has_boot_elf(launch):
        return ["-kernel", str(saved / BOOT_ELF)]
    kernel, initrd = boot_files(launch)
    return ["-kernel", str(guest / kernel.name), *(("-initrd", str(guest / initrd.name)) if initrd else ())]


def _has_boot_elf(launch: Launch) -> bool:
    return launch.forked and launch.template is not None and (launch.template / BOOT_ELF).exists()


def _memory(launch: Launch, saved: Path | None, *, read_only: bool) -> list[str]:
    """Return the machine and its RAM: anonymous, in a file that is to be saved, or a private view of a saved one."""
    size = ["-m", f"{launch.memory // MIB}M"]
    backend: dict[str, object] = {"qom-type": "memory-backend-file", "id": "ram", "size": launch.memory}
    if launch.record:
        backend.update({"mem-path": RAM, "share": True})
    elif saved is not None:
        backend.update({"mem-path": str(saved / RAM), "share": False})
        backend.update({"readonly": True, "rom": "off"} if read_only else {})
    else:
        return ["-machine", launch.machine.machine, *size]
    return ["-machine", f"{launch.machine.machine},memory-backend=ram", "-object", json.dumps(backend), *size]


def _disk(launch: Launch, base: Path, template: Path | None) -> list[str]:
    """Return the chain of disks, the node's own overlay on top, and the device that it is in.

    The lower layers are named here and not read from the overlay: a template's files have another path in a container.
    """
    arguments = []
    layers = [base, *([template / OVERLAY] if template else [])]
    for number, layer in enumerate(layers):
        device = {
            "driver": "qcow2",
            "node-name": f"layer{number}",
            "read-only": True,
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(layer)},
            **({"backing": f"layer{number - 1}"} if number else {}),
        }
        arguments += ["-blockdev", json.dumps(device)]
    # A slot of the machine's own takes a -drive only, and every device takes one.
    top = f"format=qcow2,file={OVERLAY},backing=layer{len(layers) - 1},discard=unmap"
    if launch.machine.disk.startswith("if="):
        return [*arguments, "-drive", f"{launch.machine.disk},id=disk0,{top},{SD_CACHE}"]
    return [*arguments, "-drive", f"if=none,id=disk0,{top}", "-device", f"{launch.machine.disk},drive=disk0"]


def maps_read_only_files(version: QemuVersion) -> bool:
    """Tell whether a QEMU can map a read-only file as private RAM: since 8.2 (``rom=off``)."""
    return version.numbers >= (8, 2)


def mac_address(launch: Launch) -> str:
    """Return a locally administered Ethernet address for a node: ``52:54:00:xx:xx:xx``.

    A guest that gets its address by DHCP has the same MAC address in all nodes: QEMU gives 10.0.2.15, to which SSH is
    forwarded, to the first card that asks, and remembers that in a saved machine, so that another card would get
    another address. Each node is alone in its user network.

    QEMU's ``usb-net`` replaces the first byte by 40 for the guest, which makes Linux name the card eth0.
    """
    owner = f"{launch.origin or launch.cluster}/{launch.name}"
    return _address(launch, "any node" if launch.image.manifest.stock else owner)


def lan_mac_address(launch: Launch) -> str:
    """Return the address of a node's card to the LAN, which no other node of any cluster has."""
    return _address(launch, f"{launch.origin or launch.cluster}/{launch.name}/lan")


def _address(launch: Launch, owner: str) -> str:
    tail = hashlib.sha256(owner.encode()).hexdigest()[:6]
    first = "40" if launch.machine.plugs_network else "52"
    return f"{first}:54:00:{tail[:2]}:{tail[2:4]}:{tail[4:]}"
