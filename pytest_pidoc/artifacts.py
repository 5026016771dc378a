"""Evidence: the logs of nodes, copied to where they outlive their cluster."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from pytest_pidoc.engines.engine import QEMU_LOG, SERIAL_LOG

__all__ = ["EVIDENCE", "folder_name", "keep"]

EVIDENCE = (SERIAL_LOG, QEMU_LOG)


def keep(nodes: Iterable[Path], target: Path) -> Path:
    """Copy the logs of some nodes' directories to ``target/<node>/`` and return *target*."""
    for directory in nodes:
        folder = target / directory.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in EVIDENCE:
            if (directory / name).exists():
                shutil.copyfile(directory / name, folder / name)
    return target


def folder_name(test: str) -> str:
    """Return a name for a test's folder: ``tests/test_a.py::test_b[1-x]`` becomes ``tests-test_a.py-test_b-1-x``."""
    return re.sub(r"[^\w.]+", "-", test, flags=re.ASCII).strip("-.")[:150] or "test"
