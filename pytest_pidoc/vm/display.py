"""A board's emulated display."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.errors import MonitorError
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.files import SCREENSHOT

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["screenshot"]


def screenshot(vm: Vm, path: str | Path) -> Path:
    """Save a screenshot as a PNG file; see ``Node.screenshot``.

    The node is paused meanwhile: QEMU 7.2 and 10.0 crash if the guest changes the screen's size at that moment.
    """
    model = vm.launch.machine
    if not model.has_display:
        raise MonitorError(
            f"Cannot take a screenshot of {vm.name}: model {model.name} has no display.",
            tip=f"use a model with a display: {', '.join(row.name for row in MODELS.values() if row.has_display)}",
        )
    taken = vm.directory / SCREENSHOT
    try:
        with vm.monitor.stopped():
            vm.monitor.execute("screendump", filename=SCREENSHOT, format="png")
        return Path(shutil.move(taken, path))
    except MonitorError as error:
        vm.raise_if_dead("during a screenshot", cause=error)
        raise
    finally:
        taken.unlink(missing_ok=True)
