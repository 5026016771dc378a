"""The processor of a node: limits its QEMU's share of the host's processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError
from pytest_pidoc.values.checks import is_number, shown
from pytest_pidoc.values.faults import Fault, FaultLog

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Cpu"]

LEAST = 0.01  # of a processor: a millisecond of each period is the smallest limit that the kernel accepts
MOST = 1024  # processors: more than any host has


class Cpu:
    """A node's processor: ``pi.cpu``."""

    def __init__(self, vm: Vm, faults: FaultLog) -> None:
        self._vm = vm
        self._faults = faults

    def limit(self, share: float) -> Fault:
        """Limit the node's QEMU to that share of one processor of the host, until the fault is undone.

        Parameters
        ----------
        share
            ``0.25`` is a quarter of a processor; at least 0.01.

        Raises
        ------
        FaultError
            *share* is not such a number, the node is off, or the host cannot limit its QEMU.
        """
        vm, engine = self._vm, self._vm.engine
        if not is_number(share, LEAST, MOST):
            raise FaultError(
                f"cpu.limit() needs a share of a processor from {LEAST} to {MOST}, not {shown(share)}.",
                tip="pass a number such as 0.25, a quarter of a processor",
            )
        what = f"{vm.name} cpu limit {share:g}"
        vm.require_on("its processor cannot be limited")
        before = engine.limit_cpus(vm.endpoint, share)

        def undo() -> None:
            if vm.death() is None:
                engine.limit_cpus(vm.endpoint, before)

        return self._faults.add(what, undo)
