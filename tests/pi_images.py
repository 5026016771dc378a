"""Disk images of the structure of Raspberry Pi OS, made of Debian's packages: MBR, FAT with the boot files, ext4.

Their root is that of an image ``debian:bookworm`` with all that was tuned put back to how Debian has it: logins on the
serial console with a password, no key, SSH off, an address by DHCP. The files of `pi_files` make it Raspberry Pi OS.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pi_files
from pi_files import Style

from pytest_pidoc.images.debian import archives
from pytest_pidoc.images.debian.packages import BOARD
from pytest_pidoc.images.store.image import Image

__all__ = ["BOOTED", "Booted", "Style", "make"]

#: What makes the donor boot faster, keep still and let us in.
TUNED = (
    "/etc/tmpfiles.d/systemd-nologin.conf",
    "/etc/tmpfiles.d/tmp.conf",
    "/etc/systemd/system.conf.d/pidoc.conf",
    "/etc/systemd/journald.conf.d/pidoc.conf",
    "/etc/modprobe.d/pidoc.conf",
    "/etc/dpkg/dpkg.cfg.d/pidoc",
    "/etc/ssh/sshd_config.d/pidoc.conf",
    "/etc/sudoers.d/pidoc",
    "/home/pi/.ssh/authorized_keys",
    "/var/lib/dbus/machine-id",
)

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
    trees
        The device trees: by their names in the boot partition, their roles in the image ``debian:bookworm``.
    """

    kernel: str
    initramfs: str
    trees: dict[str, str]


BOOTED = {
    "arm64": Booted(
        "kernel8.img",
        "initramfs8",
        {"bcm2710-rpi-3-b.dtb": "dtb/bcm2837-rpi-3-b", "bcm2711-rpi-4-b.dtb": "dtb/bcm2711-rpi-4-b"},
    ),
    "armhf": Booted("kernel7.img", "initramfs7", {"bcm2709-rpi-2-b.dtb": "dtb/bcm2836-rpi-2-b"}),
    "armel": Booted(
        "kernel.img",
        "initramfs",
        {"bcm2708-rpi-b-plus.dtb": "dtb/bcm2835-rpi-a-plus", "bcm2708-rpi-zero.dtb": "dtb/bcm2835-rpi-zero"},
    ),
}


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
    for name, role in booted.trees.items():
        shutil.copyfile(donor.file(role), directory / name)
    (directory / "config.txt").write_text(pi_files.config(style))
    (directory / "cmdline.txt").write_text(pi_files.cmdline(style, f"{DISK_ID:08x}"))
    for name in (booted.kernel, booted.initramfs, *booted.trees, "config.txt", "cmdline.txt"):
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
    yield f"rm {units}/sshd.service"
    for name in TUNED:
        yield f"rm {name}"
    for name in _names(root, "/etc/ssh"):
        if name.startswith("ssh_host_"):
            yield f"rm /etc/ssh/{name}"
    for library in _names(root, "/usr/lib"):
        if library.endswith(("-linux-gnu", "-linux-gnueabihf", "-linux-gnueabi")):
            yield f"rm /usr/lib/{library}/libnss_myhostname.so.2"
    yield "rmdir /home/pi/.ssh"
    if not style.own_modules:
        yield from _remove_tree(root, directory, "/usr/lib/modules")
        yield "mkdir /usr/lib/modules"
        yield "mkdir /usr/lib/modules/4.19.75+"

    files = _users(root, style) | pi_files.contents(style, f"{DISK_ID:08x}")
    there = {"/", "/etc", "/lib", "/home", f"/home/{style.user}"}
    for path in ["/boot/firmware/-", "/etc/NetworkManager/conf.d/-", *files, *pi_files.links(style)]:
        for folder in reversed(Path(path).parents):
            if str(folder) not in there and not _exists(root, str(folder)):
                yield f"mkdir {folder}"
            there.add(str(folder))
    if style.user != "pi":
        yield f"ln /home/pi /home/{style.user}"
        yield "unlink /home/pi"
    for number, (path, (content, mode)) in enumerate(files.items()):
        copy = directory / f"file-{number}"
        copy.write_text(content)
        copy.chmod(mode)
        yield f"rm {path}"
        yield f"cd {Path(path).parent}"
        yield f"write {copy} {Path(path).name}"
        owner = 1000 if path.startswith("/home/") else 0
        yield f"set_inode_field {path} uid {owner}"
        yield f"set_inode_field {path} gid {42 if path.endswith('shadow') else owner}"
    for path, target in pi_files.links(style).items():
        yield f"cd {Path(path).parent}"
        yield f"symlink {Path(path).name} {target}"


def _users(root: Path, style: Style) -> dict[str, tuple[str, int]]:
    """Return the files about users, with the one that the image has by his name and with his password."""
    modes = {"passwd": 0o644, "group": 0o644, "shadow": 0o640, "gshadow": 0o640}
    texts = {name: re.sub(r"\bpi\b", style.user, _read(root, f"/etc/{name}")) for name in modes}
    password = "*" if style.user_at_first_boot else style.password
    user, _, others = texts["shadow"].partition(f"\n{style.user}:")
    texts["shadow"] = f"{user}\n{style.user}:{password}:{others.split(':', 1)[1]}"
    return {f"/etc/{name}": (text, modes[name]) for name, text in texts.items()}


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


def _exists(root: Path, path: str) -> bool:
    return "Inode: " in _run("debugfs", "-R", f"stat {path}", root)


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
