"""Which connections of a guest the host isolation has refused, by QEMU's log.

Not in `pytest_pidoc.qemu.guard`, which writes these lines: that file is part of container images.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["refusals"]

_LINE = re.compile(r"^pidoc-guard: refused a connection of the guest to (.+?)(?:; host_access=True allows it)?$", re.M)


def refusals(log: Path) -> list[str]:
    """Return the destinations, each once, as QEMU saw them: ``["127.0.0.1 port 8000"]``."""
    try:
        return _LINE.findall(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
