"""The kernel of a node forked from a saved machine, as an ELF file: it is needed only if the guest restarts.

QEMU reads a Linux image into memory of its own, twice, and keeps it for the next reset: 30 ms and 37 MB, private to
every node. An ELF file it maps instead, so that all nodes share the pages and nobody reads them before a reset.
QEMU (hw/arm/boot.c) takes an ELF file for no Linux kernel: it loads no initrd, puts the device tree at the start of
the RAM if it fits below the file's lowest segment, and jumps to its entry. So the initrd is a segment too, which
the kernel finds by `initrdmem=`, and the entry is a few instructions that do what the arm64 boot protocol asks for
(Documentation/arch/arm64/booting.rst).
"""

from __future__ import annotations

import struct
from pathlib import Path

from pytest_pidoc.errors import ImageError

__all__ = ["can_hold", "initrd_argument", "write"]

# Distances from the start of the RAM. Kernel and initrd are where QEMU puts them for a Linux image.
KERNEL = 0x200000
ENTRY = KERNEL - 0x1000
INITRD = 0x8000000

PAGE = 0x1000
LINUX_MAGIC = b"ARM\x64"  # at byte 56 of an arm64 image


def can_hold(kernel: Path) -> bool:
    """Tell whether the file is such a kernel and exists: a published image has it in its container only."""
    if not kernel.exists():
        return False
    with kernel.open("rb") as stream:
        return _is_suitable(stream.read(64))


def write(target: Path, *, kernel: Path, initrd: Path, ram: int) -> None:
    """Write the ELF file *target* that boots an arm64 Linux on a machine whose RAM begins at *ram*.

    Raises
    ------
    ImageError
        The kernel is not an arm64 image, or requires another load address.
    """
    image = kernel.read_bytes()
    if not _is_suitable(image):
        raise ImageError(f"{kernel} must be an arm64 Linux image that can be loaded at any multiple of 2 MiB.")
    parts = [(ENTRY, _entry(ram)), (KERNEL, image), (INITRD, initrd.read_bytes())]
    header, headers, content = 64, b"", b""
    for distance, part in parts:
        content += bytes(-len(content) % PAGE)
        # PT_LOAD, readable and executable
        headers += struct.pack("<IIQQQQQQ", 1, 5, PAGE + len(content), *[ram + distance] * 2, *[len(part)] * 2, PAGE)
        content += part
    # 64 bits, little-endian, ET_EXEC, EM_AARCH64
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQI", 2, 183, 1, ram + ENTRY, header, 0, 0)
    elf += struct.pack("<HHHHHH", header, 56, len(parts), 0, 0, 0)
    target.write_bytes((elf + headers).ljust(PAGE, b"\0") + content)


def _is_suitable(kernel: bytes) -> bool:
    """Tell whether that is an arm64 Linux that can be loaded at any multiple of 2 MiB."""
    return len(kernel) >= 64 and kernel[56:60] == LINUX_MAGIC and struct.unpack_from("<Q", kernel, 8) == (0,)


def initrd_argument(initrd_size: int, ram: int) -> str:
    """Return the kernel argument that tells where the initrd is."""
    return f"initrdmem={ram + INITRD:#x},{initrd_size}"


def _entry(ram: int) -> bytes:
    """Return the instructions ``x0 = ram (the device tree); x1 = x2 = x3 = 0; jump to the kernel``."""
    kernel = ram + KERNEL

    def movz(register: int, value: int) -> int:  # movz xN, #(value >> 16), lsl #16
        return 0xD2A00000 | (value >> 16) << 5 | register

    code = [movz(0, ram), *(0xD2800000 | register for register in (1, 2, 3)), movz(4, kernel), 0xD61F0080]  # br x4
    return struct.pack(f"<{len(code)}I", *code)
