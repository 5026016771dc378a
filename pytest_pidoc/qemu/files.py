"""The files with which a node starts: its disk, and its RAM if it is to be saved after it was forked."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pytest_pidoc.errors import BootError
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.overlay import empty_overlay
from pytest_pidoc.values.files import OVERLAY, RAM

__all__ = ["lay_out"]

COPY_TIMEOUT = 600.0  # seconds


def lay_out(launch: Launch) -> None:
    """Put the files of a node that is about to start for the first time, or again as for the first time, in its place.

    A fork's disk is empty over the template's. One that is to be saved gets a disk and RAM of its own, so that what is
    saved does not need the template. The disk of a node that is booted is made by the engine.

    Raises
    ------
    BootError
        They cannot be copied: the disk is full.
    """
    directory, template = launch.directory, launch.template
    for name in (OVERLAY, RAM):
        (directory / name).unlink(missing_ok=True)
    if template is None:
        return
    if launch.record:
        _copy([template / name for name in (OVERLAY, RAM)], directory)
    else:
        (directory / OVERLAY).write_bytes(empty_overlay(template / OVERLAY))


def _copy(paths: list[Path], directory: Path) -> None:
    """Copy files that have holes, and let the copies be writable."""
    command: list[str | Path] = ["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode"]
    command += ["--target-directory", directory, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COPY_TIMEOUT, check=False)
    if done.returncode:
        raise BootError(
            f"The saved machine cannot be copied for {directory.name}.",
            evidence=done.stderr,
            tip="free some disk space, or set TMPDIR to another directory",
        )
    for path in paths:
        (directory / path.name).chmod(0o600)
