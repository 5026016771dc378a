"""Figures that were measured on real Raspberry Pis, and what their cores can do.

The figures are those of pidoc, the project that this one is named after: sysbench's CPU test, 10,000 events with
``--cpu-max-prime=9999`` in one thread, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CORES", "EMULATED", "EVENTS", "MAX_PRIME", "PHYSICAL"]

EVENTS, MAX_PRIME = 10_000, 9999

#: The real boards.
PHYSICAL = {
    "Pi 1": 330.6,
    "Pi A+": 328.8,
    "Pi Zero W": 228.2,
    "Pi 2B": 224.9,
    "Pi 3B": 139.6,
    "Pi 4B": 92.6,
}

#: pidoc's own emulated Pi, which is the model ``pi1-versatile``: with a whole CPU of its host, and with half of one.
EMULATED = (397.9, 823.8)


@dataclass(frozen=True)
class Core:
    """A board's core: its clock, and how many instructions it can issue in a cycle at most."""

    name: str
    megahertz: int
    issues: int


#: Sources: the boards' documentation, and ARM's technical reference manuals of the cores.
CORES = {
    "Pi 1": Core("ARM1176", 700, 1),
    "Pi A+": Core("ARM1176", 700, 1),
    "Pi Zero W": Core("ARM1176", 1000, 1),
    "Pi 2B": Core("Cortex-A7", 900, 2),
    "Pi 3B": Core("Cortex-A53", 1200, 2),
    "Pi 4B": Core("Cortex-A72", 1500, 3),
}
