"""The smallest guests that QEMU runs: a few instructions that greet on the serial port, or draw on a board's screen.

They let tests of engines start real nodes in a fraction of a second, without building a Linux.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
from typing import TYPE_CHECKING

from pytest_pidoc.images.store.image import MANIFEST, Image, ImageFile, Manifest

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

WIDTH, HEIGHT = 1920, 1080

# A program that has a message for a board's firmware, 64 bytes behind its start, begins with this ...
_TO_FIRMWARE = (
    0x10000201,  # adr  x1, message
    0xB27D0022,  # orr  x2, x1, #8               the channel of properties
    0xD2A7E000,  # movz x0, #0x3f00, lsl #16
    0xF2971400,  # movk x0, #0xb8a0              the mailbox to the firmware
)
# ... and this is a part of the message: set the physical width and height.
_SET_SIZE = (0x48003, 8, 8, WIDTH, HEIGHT)

DRAWS = struct.pack(
    "<32I",
    *_TO_FIRMWARE,
    0xB9000002,  # str  w2, [x0]
    0xB9402823,  # ldr  w3, [x1, #40]            where the screen is, as the firmware sees it
    0x12007463,  # and  w3, w3, #0x3fffffff
    0x52900004,  # mov  w4, #0x8000
    0x2A3F03E5,  # mvn  w5, wzr
    0xB8004465,  # fill: str w5, [x3], #4        two white points
    0x51000484,  # sub  w4, w4, #1
    0x35FFFFC4,  # cbnz w4, fill
    0xD503207F,  # end: wfi
    0x17FFFFFF,  # b    end
    *(0xD503201F, 0xD503201F),  # nop
    *(64, 0),  # message: its size in bytes, a request
    *_SET_SIZE,
    *(0x40001, 8, 4, 16, 0),  # where is it?
    *(0, 0, 0, 0),  # the end
)
"""What the Pi's kernel does on a board when it starts: it tells the firmware, by the mailbox, how large its screen is,
asks where that lies in memory, and draws on it."""

FLICKERS = struct.pack(
    "<28I",
    *_TO_FIRMWARE,
    0xD1008003,  # sub  x3, x0, #0x20            and that from it
    0xB9401424,  # again: ldr w4, [x1, #20]
    0x52160084,  # eor  w4, w4, #0x400           another width
    0xB9001424,  # str  w4, [x1, #20]
    0xB9000002,  # str  w2, [x0]
    0xB9400064,  # ldr  w4, [x3]
    0x17FFFFFB,  # b    again
    *(0xD503201F,) * 5,  # nop
    *(48, 0),  # message: its size in bytes, a request
    *_SET_SIZE,
    *(0, 0, 0, 0, 0),  # the end
)
"""A program that makes its board's screen wider and narrower all the time."""


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
