"""The ELF file that forks boot when their guest restarts."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_pidoc.errors import ImageError
from pytest_pidoc.qemu import bootelf

RAM = 0x40000000


def linux(offset: int = 0, magic: bytes = b"ARM\x64") -> bytes:
    """Return what begins like an arm64 Linux image, and has an odd size."""
    return struct.pack("<QQ", 0, offset).ljust(56, b"\0") + magic + b"kernel" * 1000


def segments(elf: bytes) -> dict[int, bytes]:
    """Return the content of an ELF file's segments by physical address."""
    start, count = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
    found = {}
    for number in range(count):
        kind, _, offset, _, address, size, memory, _ = struct.unpack_from("<IIQQQQQQ", elf, start + 56 * number)
        assert (kind, memory, offset % 4096) == (1, size, 0)
        found[address] = elf[offset : offset + size]
    return found


def test_kernel_and_initrd_are_where_they_are_told_to_be(tmp_path: Path) -> None:
    """The kernel is 2 MiB above the start of the RAM, the initrd where the argument says."""
    (tmp_path / "kernel").write_bytes(linux())
    (tmp_path / "initrd").write_bytes(b"initrd")

    bootelf.write(tmp_path / "elf", kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", ram=RAM)

    found = segments((tmp_path / "elf").read_bytes())
    address, _, size = bootelf.initrd_argument(6, RAM).removeprefix("initrdmem=").partition(",")
    assert found[RAM + 0x200000] == linux()
    assert found[int(address, 16)] == b"initrd"
    assert size == "6"


def test_entry_hands_over_the_device_tree_and_jumps_to_the_kernel(tmp_path: Path) -> None:
    """As objdump reads it: mov x0, #0x40000000; mov x1, x2, x3, #0; mov x4, #0x40200000; br x4."""
    (tmp_path / "kernel").write_bytes(linux())
    (tmp_path / "initrd").write_bytes(b"initrd")

    bootelf.write(tmp_path / "elf", kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", ram=RAM)

    elf = (tmp_path / "elf").read_bytes()
    (entry,) = struct.unpack_from("<Q", elf, 24)
    code = struct.unpack("<6I", segments(elf)[entry])
    assert code == (0xD2A80000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2A80404, 0xD61F0080)


@pytest.mark.parametrize("kernel", [linux(offset=0x80000), linux(magic=b"none")])
def test_kernel_that_belongs_elsewhere_is_refused(tmp_path: Path, kernel: bytes) -> None:
    """An image with an offset of its own, or that is no arm64 Linux, is an error and not a file."""
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "initrd").write_bytes(b"initrd")

    with pytest.raises(ImageError, match="must be an arm64 Linux image that can be loaded at any multiple of 2 MiB"):
        bootelf.write(tmp_path / "elf", kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", ram=RAM)

    assert not (tmp_path / "elf").exists()


def test_a_kernel_of_another_kind_is_told(tmp_path: Path) -> None:
    """A user's own may be any: forks boot from it as the machine did. One that is not here cannot be put in."""
    for name, content in (("right", linux()), ("elsewhere", linux(offset=0x80000)), ("short", linux()[:40])):
        (tmp_path / name).write_bytes(content)

    assert bootelf.can_hold(tmp_path / "right")
    for name in ("elsewhere", "short", "nowhere"):
        assert not bootelf.can_hold(tmp_path / name)
