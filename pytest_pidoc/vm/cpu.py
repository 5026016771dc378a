"""The processor of a node: how much of the host's its QEMU may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError
from pytest_pidoc.values.checks import is_number, shown
from pytest_pidoc.values.faults import Fault, FaultLog

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Cpu"]

LEAST = 0.01  # of a processor: a millisecond of each period is the least that the kernel takes
MOST = 1024  # processors: more than any host has


class Cpu:
    """A node's processor: ``pi.cpu``."""

    def __init__(self, vm: Vm, faults: FaultLog) -> None:
        self._vm = vm
        self._faults = faults

    def limit(self, share: float) -> Fault:
        """Let the node's QEMU use only that share of one processor of the host, from now on until that is undone.

        Parameters
        ----------
        share
            ``0.25`` is a quarter of a processor; 0.01 is the least.

        Raises
        ------
        FaultError
            It is not such a number, the node is off, or its QEMU cannot be limited here.
        """
        vm, engine = self._vm, self._vm.engine
        if not is_number(share, LEAST, MOST):
            raise FaultError(f"A node cannot be limited to {shown(share)} of a processor.", tip=f"{LEAST} or more")
        what = f"{vm.name} cpu limit {share:g}"
        vm.require_on("its processor cannot be limited")
        before = engine.limit_cpus(vm.endpoint, share)

        def undo() -> None:
            if vm.death() is None:
                engine.limit_cpus(vm.endpoint, before)

        return self._faults.add(what, undo)
