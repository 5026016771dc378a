"""Which processor a program was compiled for, read from its ELF file.

See the ELF specification, "ELF for the Arm Architecture" (EF_ARM_ABI_FLOAT_HARD) and "Addenda to, and Errata in, the
ABI for the Arm Architecture" (build attributes: Tag_CPU_arch).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Program", "read"]

_MACHINES = {3: "x86", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V"}
_HARD_FLOAT = 0x400
_ATTRIBUTES = 0x70000003  # SHT_ARM_ATTRIBUTES
_CPU_ARCH = 6  # Tag_CPU_arch
# Its values, those of processors that run Linux: ARMv4T, v5T, v5TE, v5TEJ, v6, v6KZ, v6T2, v6K, v7, v8.
_VERSIONS = {2: 4, 3: 5, 4: 5, 5: 5, 6: 6, 7: 6, 8: 6, 9: 6, 10: 7, 14: 8}
_TEXT_TAGS = frozenset({4, 5, 67})  # values that are text; 32 is a number and a text


@dataclass(frozen=True)
class Program:
    """What a program requires of a processor.

    Attributes
    ----------
    machine
        ``AArch64``, ``ARM``, ``x86-64`` ...
    hard_float
        Of an ARM program: whether it passes floating point values in registers.
    version
        Of an ARM program: the architecture's version, e.g. 6; 0 if the file does not state it.
    """

    machine: str
    hard_float: bool = False
    version: int = 0

    @property
    def architecture(self) -> str:
        """Debian's name of the architecture, or the name of the machine if Debian does not support it on Pis."""
        if self.machine == "AArch64":
            return "arm64"
        if self.machine == "ARM":
            return "armhf" if self.hard_float else "armel"
        return self.machine

    def __str__(self) -> str:
        version = f", ARMv{self.version}" if self.version else ""
        return f"{self.architecture}{version}"


def read(program: bytes) -> Program | None:
    """Return what a program needs; ``None`` if it is not an ELF file for a little-endian machine."""
    if program[:4] != b"\x7fELF" or program[5:6] != b"\x01":
        return None
    try:
        (number,) = struct.unpack_from("<H", program, 18)
        machine = _MACHINES.get(number, f"machine {number}")
        if machine != "ARM":
            return Program(machine)
        (flags,) = struct.unpack_from("<I", program, 36)
        return Program(machine, bool(flags & _HARD_FLOAT), _version(program))
    except (struct.error, IndexError, ValueError):
        return None


def _version(program: bytes) -> int:
    """Return the version in the build attributes of a 32-bit program, 0 if they do not state it."""
    (sections,) = struct.unpack_from("<I", program, 32)
    size, count = struct.unpack_from("<HH", program, 46)
    for number in range(count):
        _, kind, _, _, start, length = struct.unpack_from("<6I", program, sections + number * size)
        if kind == _ATTRIBUTES and program[start : start + 1] == b"A":
            return _in_attributes(program[start + 1 : start + length])
    return 0


def _in_attributes(data: bytes) -> int:
    """Look in a list of subsections: a length, a vendor's name, and tags with their values."""
    while len(data) > 4:
        (length,) = struct.unpack_from("<I", data)
        if length < 5:
            break
        vendor, _, tags = data[4:length].partition(b"\0")
        data = data[length:]
        if vendor == b"aeabi" and tags[:1] == b"\x01":  # Tag_File, with the length of what follows
            position = 5
            while position < len(tags):
                tag, position = _uleb128(tags, position)
                if tag == 32:
                    _, position = _uleb128(tags, position)
                if tag == 32 or tag in _TEXT_TAGS:
                    position = tags.index(b"\0", position) + 1
                    continue
                value, position = _uleb128(tags, position)
                if tag == _CPU_ARCH:
                    return _VERSIONS.get(value, 0)
    return 0


def _uleb128(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position
