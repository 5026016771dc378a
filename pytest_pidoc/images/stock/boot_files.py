"""What the Pi's firmware would boot: the files of the boot partition that ``config.txt`` chooses for a board.

See https://www.raspberrypi.com/documentation/computers/config_txt.html.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ImageError
from pytest_pidoc.values.checks import listed

__all__ = ["CPUS", "TREES", "BootFiles", "choose", "settings", "unpack_kernel"]

LARGEST_KERNEL = 256 * 1024**2  # bytes


@dataclass(frozen=True)
class Cpu:
    """What the firmware does on boards with that processor.

    Attributes
    ----------
    kernel, initramfs
        The files that it looks for by default, if ``config.txt`` names no others.
    sections
        The sections of ``config.txt`` that count, beside ``[all]``.
    """

    kernel: str
    initramfs: str
    sections: frozenset[str]


#: By QEMU's name of the processor.
CPUS = {
    "arm1176": Cpu("kernel.img", "initramfs", frozenset({"pi0", "pi1"})),
    "cortex-a7": Cpu("kernel7.img", "initramfs7", frozenset({"pi2"})),
    "cortex-a53": Cpu("kernel8.img", "initramfs8", frozenset({"pi3"})),
    "cortex-a72": Cpu("kernel8.img", "initramfs8", frozenset({"pi4"})),
}


#: Raspberry Pi's names of device trees, and Linux's of the boards that the firmware boots with them: the A+, which QEMU
#: has, has none of its own.
TREES = {
    "bcm2708-rpi-b-plus": "bcm2835-rpi-a-plus",
    "bcm2708-rpi-zero": "bcm2835-rpi-zero",
    "bcm2709-rpi-2-b": "bcm2836-rpi-2-b",
    "bcm2710-rpi-3-b": "bcm2837-rpi-3-b",
}


@dataclass(frozen=True)
class BootFiles:
    """Names in the boot partition.

    Attributes
    ----------
    kernel
        The kernel, which may be packed with gzip.
    initramfs
        What the kernel unpacks into memory before it starts; empty if the firmware loads nothing.
    """

    kernel: str
    initramfs: str = ""


def choose(config: str, names: Collection[str], cpu: str) -> BootFiles:
    """Return what the firmware would boot.

    Parameters
    ----------
    config
        The text of ``config.txt``.
    names
        The files in the boot partition.
    cpu
        The board's processor, as QEMU calls it.

    Raises
    ------
    ImageError
        The boot partition does not contain the kernel.
    """
    board = CPUS[cpu]
    chosen = dict(settings(config, board.sections))
    prefix = chosen.get("os_prefix", "")
    kernel = prefix + chosen.get("kernel", board.kernel)
    there = {name.lower() for name in names}
    if kernel.lower() not in there:
        raise ImageError(
            f"The boot partition does not contain {kernel}, the kernel of a {cpu}; "
            f"it contains {listed(names) or 'no files'}.",
            tip="use an image for that board, or name a kernel with kernel=PATH",
        )
    initramfs = chosen.get("initramfs", "")
    if not initramfs and chosen.get("auto_initramfs", "0") != "0" and "kernel" not in chosen:
        # It has its place in the name of the kernel: kernel8.img and initramfs8.
        initramfs = board.initramfs if (prefix + board.initramfs).lower() in there else ""
    return BootFiles(kernel, prefix + initramfs if initramfs else "")


def settings(config: str, sections: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the settings that hold, in their order; the last one of a name is the one that counts."""
    holds = True
    for line in config.splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            section = text.strip("[]").lower()
            holds = section == "all" or section in sections
        elif holds and text.startswith("initramfs "):  # the one setting without "="
            yield "initramfs", text.split()[1]
        elif holds and "=" in text:
            name, _, value = text.partition("=")
            yield name.strip(), value.strip()


def unpack_kernel(path: Path) -> None:
    """Unpack a kernel in place, if it is packed: 64-bit ones usually are, and QEMU's other users want them plain.

    Raises
    ------
    ImageError
        It is damaged, or larger than a kernel can be.
    """
    with path.open("rb") as packed:
        if packed.read(2) != b"\x1f\x8b":
            return
    try:
        with gzip.open(path) as stream:
            kernel = stream.read(LARGEST_KERNEL + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"Cannot unpack the kernel {path.name}: {error}.") from error
    if len(kernel) > LARGEST_KERNEL:
        raise ImageError(f"The kernel {path.name} is too large: it must unpack to at most {LARGEST_KERNEL >> 20} MiB.")
    path.write_bytes(kernel)
