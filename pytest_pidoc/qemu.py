"""The command line of a node's QEMU: the same on every engine, run in the node's directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pytest_pidoc.engines.engine import CONSOLE_SOCKET, OVERLAY, QMP_SOCKET, SERIAL_LOG, Launch
from pytest_pidoc.machines import MIB

__all__ = ["arguments", "mac_address", "overlay_command"]


def arguments(launch: Launch, *, guest: Path, forward: str) -> list[str]:
    """Return the QEMU command line of a node, the program first.

    Parameters
    ----------
    launch
        The node. Its directory must be QEMU's working directory and hold the overlay.
    guest
        The directory of the image's files, as QEMU sees it.
    forward
        Where QEMU listens for the guest's SSH port: ``tcp:127.0.0.1:0`` lets the OS choose a port.
    """
    machine, manifest = launch.machine, launch.image.manifest
    kernel_arguments = [
        f"root={machine.root}",
        "rw",
        f"console={machine.console},115200",
        "net.ifnames=0",  # the card is eth0 on every model
        f"systemd.hostname={launch.name}",
        manifest.append,
    ]
    return [
        machine.binary,
        *("-name", f"{launch.cluster}/{launch.name}"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", machine.machine, "-cpu", machine.cpu),
        *("-smp", str(machine.cores), "-m", f"{launch.memory // MIB}M"),
        *("-kernel", str(guest / manifest.files["kernel"].name)),
        *("-initrd", str(guest / manifest.files["initrd"].name)),
        *("-append", " ".join(argument for argument in kernel_arguments if argument)),
        *("-drive", f"if=none,id=disk0,format=qcow2,file={OVERLAY},discard=unmap"),
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
        *("-chardev", f"socket,id=qmp0,path={QMP_SOCKET},server=on,wait=off"),
        *("-mon", "chardev=qmp0,mode=control"),
    ]


def overlay_command(disk: Path) -> list[str]:
    """Return the command that makes the node's overlay over *disk*, to be run in the node's directory."""
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(disk), OVERLAY]


def mac_address(cluster: str, node: str) -> str:
    """Return a locally administered Ethernet address that is a node's own: ``52:54:00:xx:xx:xx``."""
    tail = hashlib.sha256(f"{cluster}/{node}".encode()).hexdigest()[:6]
    return f"52:54:00:{tail[:2]}:{tail[2:4]}:{tail[4:]}"
