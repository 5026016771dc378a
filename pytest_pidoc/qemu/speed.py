"""How fast the host emulates ARM, and the time limit of a boot that follows from it."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

from pytest_pidoc.machines import Machine
from pytest_pidoc.qemu.program import Qemu

__all__ = ["PROBE_REFERENCE", "boot_timeout", "probe"]

#: Seconds that the probe takes on the host on which ``Machine.cold_boot`` was measured.
PROBE_REFERENCE = 0.35

#: The time limit of a boot is this many times its usual time: CI hosts are shared and uneven.
MARGIN = 6.0
LEAST = 60.0
STOCK = 10.0  # an image that is not tuned boots this many times longer: plain Debian four, Raspberry Pi OS more
FORK = 10.0  # additional seconds for each node that is forked and not booted; one takes 1.5 s of a core

_RAM = 0x40100000  # in the memory of the machine virt, past the device tree at its start

# A bare arm64 program: 65,536,000 times add one to a word in memory, then the semihosting call SYS_EXIT.
# The word is 7 MiB above the code: a store beside the code would make QEMU translate it again each time.
_PROGRAM = struct.pack(
    "<10I2Q",
    0xD2A00000 | (1000 << 5),  # mov  x0, #(1000 << 16)
    0xD2A00002 | (0x4080 << 5),  # mov  x2, #0x40800000
    0xF9400041,  # ldr  x1, [x2]
    0x91000421,  # add  x1, x1, #1
    0xF9000041,  # str  x1, [x2]
    0xF1000400,  # subs x0, x0, #1
    0x54FFFF81,  # b.ne -16
    0x52800300,  # mov  w0, #0x18 (SYS_EXIT)
    0x10000041,  # adr  x1, +8
    0xD45E0000,  # hlt  #0xf000
    0x20026,  # ADP_Stopped_ApplicationExit
    0,  # exit status
)


def probe(qemu: Qemu) -> float:
    """Return the seconds that this host needs for a fixed piece of emulated work (0.3 to 0.6 on a recent x86-64 core).

    Raises
    ------
    EngineUnavailable
        QEMU is missing or fails, or the host is so slow that the probe takes over a minute.
    """
    start = time.monotonic()
    qemu.run_qemu(
        "qemu-system-aarch64",
        [
            *("-machine", "virt", "-cpu", "cortex-a53", "-m", "16M", "-nodefaults", "-display", "none"),
            *("-semihosting-config", "enable=on,target=native"),
            *(part for words in _loaders() for part in ("-device", words)),
        ],
        timeout=60,
    )
    return time.monotonic() - start


def _loaders() -> Iterator[str]:
    """Yield the devices that put the program into memory: a container would not see a file of the host."""
    for offset in range(0, len(_PROGRAM), 8):
        data = int.from_bytes(_PROGRAM[offset : offset + 8], "little")
        yield f"loader,addr={_RAM + offset:#x},data={data:#x},data-len=8"
    yield f"loader,addr={_RAM:#x},cpu-num=0"


def boot_timeout(
    machine: Machine, nodes: int, probed: float, *, stock: bool = False, processors: int | None = None
) -> float:
    """Return the time limit in seconds for *nodes* nodes that boot at the same time on this host.

    Parameters
    ----------
    machine
        The model.
    nodes
        How many boot at a time.
    probed
        The result of `probe`.
    stock
        Whether their image is not tuned for a fast boot.
    processors
        Processors of this host; counted if not given.
    """
    processors = processors or len(os.sched_getaffinity(0))
    crowding = max(1.0, nodes * machine.cores / processors)
    usual = machine.cold_boot * (STOCK if stock else 1)
    return max(LEAST, MARGIN * usual * probed / PROBE_REFERENCE * crowding)
