"""The smallest guest that QEMU's ``virt`` machine runs: eight instructions that greet on the serial port.

It lets tests of engines start real nodes in a fraction of a second, without building a Linux.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
from typing import TYPE_CHECKING

from pytest_pidoc.images.image import MANIFEST, Image, ImageFile, Manifest

if TYPE_CHECKING:
    from pathlib import Path

GREETING = b"pidoc: bare metal\n"

PROGRAM = struct.pack(
    "<8I",
    0xD2A12000,  # movz x0, #0x0900, lsl #16   the serial port's data register
    0x100000E1,  # adr  x1, text
    0x38401422,  # next: ldrb w2, [x1], #1
    0x34000062,  # cbz  w2, end
    0xB9000002,  # str  w2, [x0]
    0x17FFFFFD,  # b    next
    0xD503207F,  # end: wfi
    0x17FFFFFF,  # b    end
)

GREEDY = struct.pack(
    "<7I",
    0xD2A20003,  # movz x3, #0x1000, lsl #16   wait for a second or two
    0xD1000463,  # wait: sub x3, x3, #1
    0xB5FFFFE3,  # cbnz x3, wait
    0xD2A82000,  # movz x0, #0x4100, lsl #16   then write to every page of the RAM
    0xF9000000,  # next: str x0, [x0]
    0x91400400,  # add  x0, x0, #4096
    0x17FFFFFE,  # b    next
)
"""A program that uses all the memory that it has."""


def make_image(directory: Path, *, greeting: bytes = GREETING, kernel: bytes | None = None) -> Image:
    """Make an image of it in *directory*, with a disk of 1 MB, a nominal initrd and a nominal key."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kernel").write_bytes(PROGRAM + greeting + b"\0" if kernel is None else kernel)
    (directory / "initrd").write_bytes(b"nothing")
    (directory / "id_ed25519").write_bytes(b"no key, but secret\n")
    (directory / "id_ed25519").chmod(0o600)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(directory / "disk.qcow2"), "1M"], check=True)
    roles = {"kernel": "kernel", "initrd": "initrd", "disk": "disk.qcow2", "private_key": "id_ed25519"}
    files = {role: _entry(directory / name) for role, name in roles.items()}
    key = hashlib.sha256("".join(entry.sha256 for entry in files.values()).encode()).hexdigest()
    manifest = Manifest(
        recipe="bare-metal",
        architecture="arm64",
        key=key,
        files=files,
        user="pi",
        host_keys=("ssh-ed25519 AAAA",),
    )
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Image(directory, manifest)


def _entry(path: Path) -> ImageFile:
    content = path.read_bytes()
    return ImageFile(name=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
