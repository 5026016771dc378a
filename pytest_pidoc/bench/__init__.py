"""``pidoc bench``: figures, not verdicts. Quote ratios of one run on one host."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

__all__ = ["SPREAD", "host", "spread"]

#: What tables say about the figures that `spread` returns.
SPREAD = "median (minimum to maximum)"


def host() -> str:
    """Describe this host in a few words."""
    return f"{len(os.sched_getaffinity(0))} CPUs, {platform.machine()}, Linux {platform.release()}"


def spread(values: Sequence[float]) -> str:
    """Return the median and, in brackets, the minimum and the maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
