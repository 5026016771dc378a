"""What processor a program is made for."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.images.stock import elf
from pytest_pidoc.images.stock.elf import Program


def program_32(*, flags, attributes=b""):
    """Return a 32-bit ARM program of a header, and a section with build attributes if there are some."""
    sections = b""
    if attributes:
        sections = bytes(40) + struct.pack("<10I", 0, 0x70000003, 0, 0, 52 + 80, len(attributes), 0, 0, 1, 0)
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, 0, 0, 52, flags, 52, 32, 0, 40, len(sections) // 40, 0)
    return header + sections + attributes


def attributes(*tags, vendor=b"aeabi\0"):
    """Return build attributes: `A`, a subsection with its vendor, the tags of the whole file."""
    content = b"".join(tags)
    content = b"\x01" + struct.pack("<I", 5 + len(content)) + content
    return b"A" + struct.pack("<I", 4 + len(vendor) + len(content)) + vendor + content


def test_a_64_bit_program():
    """As /bin/bash of an arm64 image begins."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 183) + bytes(44)

    assert elf.read(header) == Program("AArch64")
    assert elf.read(header).architecture == "arm64"
    assert str(elf.read(header)) == "arm64"


@pytest.mark.parametrize(
    ("flags", "tags", "program", "text"),
    [
        (0x5000400, [b"\x05" + b"6\0", b"\x06\x06"], Program("ARM", True, 6), "armhf, ARMv6"),
        (0x5000400, [b"\x05" + b"7-A\0", b"\x06\x0a", b"\x07A"], Program("ARM", True, 7), "armhf, ARMv7"),
        (0x5000200, [b"\x06\x04"], Program("ARM", False, 5), "armel, ARMv5"),
        (0x5000200, [b"\x20\x01gnu\0", b"\x43name\0", b"\x06\x09"], Program("ARM", False, 6), "armel, ARMv6"),
        (0x5000200, [], Program("ARM", False, 0), "armel"),
    ],
)
def test_32_bit_programs_say_version_and_floating_point(flags, tags, program, text):
    """Raspbian is ARMv6 with hard floating point, Debian's armhf ARMv7, its armel ARMv5 without."""
    found = elf.read(program_32(flags=flags, attributes=attributes(*tags) if tags else b""))

    assert found == program
    assert str(found) == text


def test_attributes_of_another_vendor_are_passed_over():
    """Only the public ones are documented."""
    data = attributes(b"\x06\x0a", vendor=b"gnu\0") + attributes(b"\x06\x06")[1:]

    assert elf.read(program_32(flags=0x400, attributes=data)) == Program("ARM", True, 6)


def test_a_program_of_this_machine_is_no_arm():
    """A real file: the interpreter's own."""
    assert elf.read(Path("/proc/self/exe").read_bytes()[:4096]).machine in ("x86-64", "AArch64")


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x02" + bytes(60)])
def test_what_is_no_program_is_none(data):
    """A script, a stump, a program of a big-endian machine."""
    assert elf.read(data) is None


@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_a_damaged_program_does_no_harm(position, noise):
    """Whatever bytes stand where: an answer or none, but no other error, and no endless loop."""
    data = bytearray(program_32(flags=0x400, attributes=attributes(b"\x05" + b"6\0", b"\x06\x06")))
    data[position : position + len(noise)] = noise

    assert elf.read(bytes(data)) is None or isinstance(elf.read(bytes(data)), Program)
