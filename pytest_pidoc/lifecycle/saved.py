"""What nodes are forked from: one machine for all of them, or a cluster that was saved with all that it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytest_pidoc.qemu.launch import Launch

__all__ = ["ORIGIN", "Saved"]

ORIGIN = "origin"  # the file with the name of the cluster that was saved


@dataclass(frozen=True)
class Saved:
    """A saved machine or a saved cluster, in a directory of the cache.

    ::

        PATH/ram, state, overlay.qcow2, serial.log             a machine that every node is forked from
        PATH/origin, pi-1/ram, ..., pi-1/identity.json, ...    a cluster: each node goes on as it was
    """

    path: Path

    def launch(self, launch: Launch) -> Launch:
        """Return how a node is forked from it."""
        origin = self.path / ORIGIN
        if not origin.exists():
            return replace(launch, template=self.path)
        return replace(launch, template=self.path / launch.name, origin=origin.read_text(encoding="ascii"))
