"""``pidoc bench``: figures, not verdicts. Quote ratios of one run on one machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

__all__ = ["host", "spread"]


def host() -> str:
    """Describe this machine in a few words."""
    return f"{len(os.sched_getaffinity(0))} CPUs, {platform.machine()}, Linux {platform.release()}"


def spread(values: Sequence[float]) -> str:
    """Return the median and, in brackets, the least and the most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
