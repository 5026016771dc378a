"""A node's network card on the LAN."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError, MonitorError
from pytest_pidoc.lan import conditions
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.values.faults import Fault, FaultLog

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Network"]


class Network:
    """The card that connects a node with the others of its cluster. SSH uses another card."""

    def __init__(self, vm: Vm, faults: FaultLog, lan: Lan | None) -> None:
        self._vm = vm
        self._faults = faults
        self._lan = lan

    def down(self) -> Fault:
        """Unplug the cable: the guest sees that the link is down, and no packet passes, until the fault is undone.

        Raises
        ------
        FaultError
            The node is off or has no LAN, or the LAN's switch has ended.
        """
        vm = self._vm
        if self._lan is None:
            raise FaultError(
                f"{vm.name} is not connected to a LAN.",
                tip="start at least two nodes with lan=True, of a model that supports it",
            )
        vm.require_on("its cable cannot be unplugged")
        cut = conditions.isolate(self._lan, vm.name)
        self._set_link(up=False)

        def undo() -> None:
            cut()
            with contextlib.suppress(MonitorError):  # a node that is off starts with its cable plugged in
                self._set_link(up=True)

        return self._faults.add(f"cable of {vm.name} unplugged", undo)

    def _set_link(self, *, up: bool) -> None:
        self._vm.monitor.execute("set_link", name=qemu.LAN_CARD, up=up)
