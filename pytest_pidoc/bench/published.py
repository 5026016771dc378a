"""Figures that were measured on real Raspberry Pis: of pidoc, the project that this one is named after.

sysbench's CPU test, 10,000 events with ``--cpu-max-prime=9999`` in one thread, in seconds.
"""

from __future__ import annotations

__all__ = ["EMULATED", "EVENTS", "MAX_PRIME", "PHYSICAL"]

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
