"""Disk images of the structure of Raspberry Pi OS, made of Debian's packages: MBR, FAT with the boot files, ext4.

Their root is that of an image ``debian:bookworm`` with all that was tuned put back to how Debian has it: logins on the
serial console with a password, no key, SSH off, an address by DHCP, the boot partition in fstab by its PARTUUID.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.images.debian import archives
from pytest_pidoc.images.debian.packages import BOARD
from pytest_pidoc.images.stock.accounts import DEFAULT
from pytest_pidoc.images.store.image import Image

__all__ = ["BOOTED", "Booted", "Style", "make"]

MIB = 1 << 20
BOOT_START, BOOT_SIZE = 4 * MIB, 96 * MIB
ROOT_SIZE = 1100 * MIB
DISK_ID = 0x9730496B
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}


@dataclass(frozen=True)
class Booted:
    """What the firmware boots on the boards of an architecture, as it is called in the boot partition.

    Attributes
    ----------
    donors_tree
        The tree's role in the image ``debian:bookworm``.
    """

    kernel: str
    initramfs: str
    tree: str
    donors_tree: str


BOOTED = {
    "arm64": Booted("kernel8.img", "initramfs8", "bcm2710-rpi-3-b.dtb", "dtb/bcm2837-rpi-3-b"),
    "armhf": Booted("kernel7.img", "initramfs7", "bcm2709-rpi-2-b.dtb", "dtb/bcm2836-rpi-2-b"),
    "armel": Booted("kernel.img", "initramfs", "bcm2708-rpi-b-plus.dtb", "dtb/bcm2835-rpi-a-plus"),
}


@dataclass(frozen=True)
class Style:
    """Which images it is like.

    Attributes
    ----------
    user_at_first_boot
        As since April 2022: the user has no password until ``userconf.txt`` gives him one, and ``ssh`` in the boot
        partition enables SSH. Before: pi and raspberry.
    password
        The encrypted password of the user pi.
    own_modules
        Whether the kernel in the boot partition has its modules in the root, as a Pi's has. Without them the
        image is one whose kernel the emulated machine cannot use.
    """

    user_at_first_boot: bool
    password: str = DEFAULT.encrypted()
    own_modules: bool = True


def make(donor: Image, directory: Path, style: Style) -> Path:
    """Make ``directory/disk.img`` from the image ``debian:bookworm``; return its path."""
    directory.mkdir()
    booted = BOOTED[donor.manifest.architecture]
    root, boot, disk = directory / "root", directory / "boot", directory / "disk.img"
    _run("qemu-img", "convert", "-O", "raw", donor.file("disk"), root)
    initramfs = _initramfs(root, directory)
    script = directory / "script"
    script.write_text("".join(f"{line}\n" for line in _edits(root, directory, style)))
    said = _run("debugfs", "-w", "-f", script, root)
    assert "mkdir: " not in said, said
    _run("e2fsck", "-f", "-p", root, accepted=(0, 1))
    _run("resize2fs", root, f"{ROOT_SIZE // MIB}M")

    with boot.open("wb") as stream:
        stream.truncate(BOOT_SIZE)
    _run("mkfs.vfat", "-F", "32", "-n", "bootfs", boot)
    kernel = donor.file("kernel").read_bytes()
    (directory / booted.kernel).write_bytes(gzip.compress(kernel, 1) if booted.kernel == "kernel8.img" else kernel)
    (directory / booted.initramfs).write_bytes(donor.file("initrd/board").read_bytes() + initramfs)
    shutil.copyfile(donor.file(booted.donors_tree), directory / booted.tree)
    (directory / "config.txt").write_text(
        "# For more options see the documentation\nauto_initramfs=1\n[pi4]\narm_boost=1\n"
    )
    (directory / "cmdline.txt").write_text(
        f"console=serial0,115200 console=tty1 root=PARTUUID={DISK_ID:08x}-02 rootfstype=ext4 fsck.repair=yes rootwait "
        "quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
    )
    for name in (booted.kernel, booted.initramfs, booted.tree, "config.txt", "cmdline.txt"):
        _run("mcopy", "-i", boot, directory / name, f"::/{name}")
        (directory / name).unlink()

    _table(disk)
    for part, start, size in ((boot, BOOT_START, BOOT_SIZE), (root, BOOT_START + BOOT_SIZE, ROOT_SIZE)):
        _run(
            "dd",
            f"if={part}",
            f"of={disk}",
            "bs=1M",
            f"seek={start // MIB}",
            f"count={size // MIB}",
            "conv=sparse,notrunc",
        )
        part.unlink()
    script.unlink()
    return disk


def _initramfs(root: Path, directory: Path) -> bytes:
    """Return what makes Debian's initrd for boards leave the network card to the image: its driver and its address."""
    _run("debugfs", "-R", f"rdump /usr/lib/modules {directory}", root)
    (modules,) = (directory / "modules").iterdir()
    loaded = archives.module_closure(modules, [name for name in BOARD if name != "cdc_subset"])
    shutil.rmtree(directory / "modules")
    order = "".join(f"{name}\n" for name in loaded).encode()
    return archives.cpio([archives.Entry("no-address"), archives.Entry("modules/order", order)])


def _table(disk: Path) -> None:
    """Begin the disk with an MBR: two partitions and the id that fstab knows the disk by."""
    entries = ((0x0C, BOOT_START, BOOT_SIZE), (0x83, BOOT_START + BOOT_SIZE, ROOT_SIZE))
    rows = [struct.pack("<B3xB3xII", 0, kind, start // 512, size // 512) for kind, start, size in entries]
    sector = bytes(440) + struct.pack("<IH", DISK_ID, 0) + b"".join(rows).ljust(64, b"\0") + b"\x55\xaa"
    with disk.open("wb") as stream:
        stream.write(sector)
        stream.truncate(BOOT_START + BOOT_SIZE + ROOT_SIZE)


def _edits(root: Path, directory: Path, style: Style) -> Iterator[str]:
    """Yield debugfs's commands that make the root one of that style."""
    units = "/etc/systemd/system"
    kept = (".wants", ".d", ".timer", "default.target", "sshd.service")
    slow = {"systemd-hwdb-update.service", "ldconfig.service", "e2scrub_reap.service"}
    for name in _names(root, units):
        if not name.endswith(kept) and name not in slow:
            yield f"rm {units}/{name}"
        if name.endswith(".service.d"):
            yield f"rm {units}/{name}/pidoc.conf"
    for folder in ("/etc/systemd/system-generators", "/etc/udev/rules.d"):
        for name in _names(root, folder):
            yield f"rm {folder}/{name}"
    for name in ("ssh.service", "pidoc-console.service", "dbus.service", "systemd-logind.service"):
        yield f"rm {units}/multi-user.target.wants/{name}"
    yield "rm /etc/tmpfiles.d/systemd-nologin.conf"
    yield "rm /etc/systemd/system.conf.d/pidoc.conf"
    yield "rm /etc/modprobe.d/pidoc.conf"
    yield "rm /etc/ssh/sshd_config.d/pidoc.conf"
    for key in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
        yield f"rm /etc/ssh/{key}"
    yield "rm /home/pi/.ssh/authorized_keys"
    yield "rmdir /home/pi/.ssh"
    if not style.own_modules:
        yield from _remove_tree(root, directory, "/usr/lib/modules")
        yield "mkdir /usr/lib/modules"
        yield "mkdir /usr/lib/modules/4.19.75+"
    yield "mkdir /boot/firmware"
    for folder in ("/etc/NetworkManager", "/etc/NetworkManager/conf.d"):
        yield f"mkdir {folder}"

    shadow = _read(root, "/etc/shadow")
    password = "*" if style.user_at_first_boot else style.password
    changed = "\n".join(
        f"pi:{password}:" + line.split(":", 2)[2] if line.startswith("pi:") else line for line in shadow.splitlines()
    )
    files = {
        "/etc/shadow": (changed + "\n", 0o640),
        "/etc/hostname": ("raspberrypi\n", 0o644),
        "/etc/fstab": (
            f"proc /proc proc defaults 0 0\nPARTUUID={DISK_ID:08x}-01 /boot/firmware vfat defaults 0 2\n"
            f"PARTUUID={DISK_ID:08x}-02 / ext4 defaults,noatime 0 1\n",
            0o644,
        ),
        "/etc/dhcpcd.conf": ("hostname\n", 0o644),
        "/etc/systemd/network/eth0.network": ("[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n", 0o644),
    }
    links = {
        f"{units}/multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service"
    }
    if style.user_at_first_boot:
        yield "mkdir /usr/lib/userconf-pi"
        yield "mkdir /usr/lib/raspberrypi-sys-mods"
        files |= FIRST_BOOT
        for name in ("userconfig", "sshswitch", "regenerate_ssh_host_keys"):
            links[f"{units}/multi-user.target.wants/{name}.service"] = f"/lib/systemd/system/{name}.service"
    for number, (path, (content, mode)) in enumerate(files.items()):
        copy = directory / f"file-{number}"
        copy.write_text(content)
        copy.chmod(mode)
        yield f"rm {path}"
        yield f"cd {Path(path).parent}"
        yield f"write {copy} {Path(path).name}"
        yield f"set_inode_field {path} uid 0"
        yield f"set_inode_field {path} gid {42 if path == '/etc/shadow' else 0}"
    for path, target in links.items():
        yield f"cd {Path(path).parent}"
        yield f"symlink {Path(path).name} {target}"


def _unit(what: str, program: str, more: str = "", section: str = "") -> tuple[str, int]:
    text = f"[Unit]\nDescription={what}\n{more}\n[Service]\nType=oneshot\nExecStart={program}\n{section}"
    return text + "\n[Install]\nWantedBy=multi-user.target\n", 0o644


#: In the role of userconf-pi and raspberrypi-sys-mods: they find the same files in the same place and do the same.
FIRST_BOOT = {
    "/usr/lib/userconf-pi/userconf": (
        '#!/bin/sh\n[ "$1" = pi ] || exit 1\necho "$1:$2" | chpasswd --encrypted\nsystemctl -q disable userconfig\n',
        0o755,
    ),
    "/usr/lib/userconf-pi/userconf-service": (
        "#!/bin/sh -e\nsleep 3 # a Pi is not fast either, and the console asks for a login already\n"
        "line=$(head -n 1 /boot/firmware/userconf.txt)\n"
        '/usr/lib/userconf-pi/userconf "${line%%:*}" "${line#*:}"\nrm /boot/firmware/userconf.txt\n',
        0o755,
    ),
    "/usr/lib/raspberrypi-sys-mods/sshswitch": (
        "#!/bin/sh -e\n[ -e /boot/firmware/ssh ] || exit 0\nrm /boot/firmware/ssh\n"
        "systemctl enable --now --no-block ssh\n",
        0o755,
    ),
    "/usr/lib/raspberrypi-sys-mods/regenerate_ssh_host_keys": (
        "#!/bin/sh -e\nrm -f /etc/ssh/ssh_host_*_key*\n"
        "for kind in ed25519 ecdsa; do ssh-keygen -q -t $kind -N '' -f /etc/ssh/ssh_host_${kind}_key; done\n"
        "systemctl -q disable regenerate_ssh_host_keys\n",
        0o755,
    ),
    "/lib/systemd/system/userconfig.service": _unit(
        "User configuration dialog",
        "/usr/lib/userconf-pi/userconf-service",
        "After=systemd-user-sessions.service\n",
        "StandardInput=tty\nTTYPath=/dev/tty8\nTTYReset=yes\nTTYVHangup=yes\nTTYVTDisallocate=yes\n",
    ),
    "/lib/systemd/system/sshswitch.service": _unit(
        "Turn on SSH if /boot/ssh or /boot/firmware/ssh is present",
        "/usr/lib/raspberrypi-sys-mods/sshswitch",
        "After=regenerate_ssh_host_keys.service boot-firmware.mount\n",
    ),
    "/lib/systemd/system/regenerate_ssh_host_keys.service": _unit(
        "Regenerate SSH host keys",
        "/usr/lib/raspberrypi-sys-mods/regenerate_ssh_host_keys",
        "Before=ssh.service\nConditionFileIsExecutable=/usr/bin/ssh-keygen\n",
    ),
}


def _remove_tree(root: Path, directory: Path, path: str) -> Iterator[str]:
    _run("debugfs", "-R", f"rdump {path} {directory}", root)
    copy = directory / Path(path).name
    for each in sorted([copy, *copy.rglob("*")], reverse=True):
        kind = "rmdir" if each.is_dir() and not each.is_symlink() else "rm"
        yield f"{kind} {Path(path).parent}/{each.relative_to(directory)}"
    shutil.rmtree(copy)


def _names(root: Path, path: str) -> list[str]:
    lines = _run("debugfs", "-R", f"ls -p {path}", root).splitlines()
    return [line.split("/")[5] for line in lines if line.startswith("/") and line.split("/")[5] not in (".", "..", "")]


def _read(root: Path, path: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", f"cat {path}", root], env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout


def _run(*command: str | Path, accepted: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode in accepted, f"{command}: {done.stdout}"
    return done.stdout
