"""The partition table of a disk image: the MBR that Raspberry Pi OS has, read and checked, an entry made larger.

See "Legacy Master Boot Record" in the UEFI specification, section 5.2.1.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO

from pytest_pidoc.errors import ImageError

__all__ = ["SECTOR", "Partition", "enlarge", "power_of_two", "read"]

SECTOR = 512
_TABLE = 446  # where the four entries begin
_ENTRY = struct.Struct("<B3xB3xII")  # flags, type, first sector, sectors; the CHS fields say nothing today
_FAT = frozenset({0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E})
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_LINUX = 0x83
_GPT = frozenset({0xEE})  # stands in an MBR for all that a GPT describes
_MOST_LOGICAL = 60
_DAMAGED = "download or copy the image again; it seems to be damaged"


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes
    ----------
    number
        The kernel's number: from 1, logical partitions from 5.
    type
        The type code: 0x0c is FAT32, 0x83 Linux.
    start, size
        In bytes.
    """

    number: int
    type: int
    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.size

    @property
    def is_fat(self) -> bool:
        """Whether it is of a FAT type."""
        return self.type in _FAT

    @property
    def is_linux(self) -> bool:
        """Whether it is of the type for Linux file systems."""
        return self.type == _LINUX


def read(disk: Path) -> tuple[Partition, ...]:
    """Return the partitions of a disk image, in the order of their numbers; an empty tuple if it has no table.

    Raises
    ------
    ImageError
        The table is a GPT, or is invalid: a partition past the end, two that overlap.
    OSError
        The image cannot be read.
    """
    with disk.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        table, second = _sector(stream, 0), _sector(stream, 1)
        entries = _entries(table)
        if second.startswith(b"EFI PART") or any(kind in _GPT for kind, _, _ in entries):
            raise ImageError(
                f"{disk.name} has a GUID partition table (GPT); only an MBR, as in Raspberry Pi images, is supported.",
                tip="use an image for Raspberry Pis, or a file system without a partition table",
            )
        found: list[Partition] = []
        for number, (kind, start, length) in enumerate(entries, start=1):
            if kind in _EXTENDED and length:
                found += _logical(disk, stream, start)
            elif kind and length:
                found.append(Partition(number, kind, start * SECTOR, length * SECTOR))
    _check(disk, found, size)
    return tuple(sorted(found, key=lambda partition: partition.number))


def enlarge(disk: Path, partition: Partition, size: int) -> Partition:
    """Write another size in bytes for a primary partition into the table; return the enlarged partition."""
    with disk.open("r+b") as stream:
        stream.seek(_TABLE + (partition.number - 1) * _ENTRY.size + 12)
        stream.write(struct.pack("<I", size // SECTOR))
    return replace(partition, size=size)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is not below *size*: QEMU requires such a size of an SD card."""
    return 1 << (size - 1).bit_length()


def _sector(stream: IO[bytes], number: int) -> bytes:
    stream.seek(number * SECTOR)
    return stream.read(SECTOR)


def _entries(sector: bytes) -> list[tuple[int, int, int]]:
    """Return type, first sector and number of sectors of the four entries; an empty list if it is not a table."""
    if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
        return []
    entries = [_ENTRY.unpack_from(sector, _TABLE + number * _ENTRY.size) for number in range(4)]
    if any(flags not in (0, 0x80) for flags, *_ in entries):
        return []  # a FAT file system without a table has the same last two bytes, and text in this place
    return [(kind, start, length) for _, kind, start, length in entries]


def _logical(disk: Path, stream: IO[bytes], base: int) -> list[Partition]:
    """Return the partitions in an extended one: a chain of tables, each with a partition and the next table."""
    found: list[Partition] = []
    table = base
    while True:
        entries = _entries(_sector(stream, table))
        if not entries or len(found) >= _MOST_LOGICAL:
            raise ImageError(f"Cannot read the extended partition of {disk.name}.", tip=_DAMAGED)
        kind, start, length = entries[0]
        if kind and length:
            found.append(Partition(5 + len(found), kind, (table + start) * SECTOR, length * SECTOR))
        kind, start, length = entries[1]
        if kind not in _EXTENDED or not length:
            return found
        if base + start <= table:
            raise ImageError(f"The extended partitions of {disk.name} form a loop.", tip=_DAMAGED)
        table = base + start


def _check(disk: Path, partitions: list[Partition], size: int) -> None:
    ordered = sorted(partitions, key=lambda partition: partition.start)
    for partition in ordered:
        if partition.start < SECTOR or partition.end > size:
            raise ImageError(
                f"Partition {partition.number} of {disk.name} spans bytes {partition.start} to {partition.end}, but "
                f"must lie between byte {SECTOR} and the image's end at {size}.",
                tip=_DAMAGED,
            )
    for one, other in pairwise(ordered):
        if one.end > other.start:
            raise ImageError(f"Partitions {one.number} and {other.number} of {disk.name} overlap.", tip=_DAMAGED)
