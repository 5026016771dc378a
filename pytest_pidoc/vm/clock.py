"""The clock of a node, and faults of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError
from pytest_pidoc.guest.output import answer, answering
from pytest_pidoc.values.checks import is_number, shown
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.vm.in_guest import change, change_back

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Clock"]

FARTHEST = 1e12  # seconds: more than any clock supports; the guest refuses smaller values itself
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Clock:
    """A node's clock: ``pi.clock``."""

    def __init__(self, vm: Vm, faults: FaultLog) -> None:
        self._vm = vm
        self._faults = faults

    @property
    def mips(self) -> float | None:
        """How many million instructions are a second of the guest's clock, if that was asked for."""
        return self._vm.launch.mips

    @property
    def counts_instructions(self) -> bool:
        """Whether the clock counts instructions: with ``mips``, and on ``pi0`` and ``pi1`` always."""
        return self.mips is not None or bool(self._vm.launch.machine.icount)

    def jump(self, seconds: float) -> Fault:
        """Let the real-time clock jump; undoing the fault jumps back by the same amount.

        The time that passes in between is kept. The monotonic clock does not jump. A guest that has
        restarted in between has the right time already, so nothing is undone.

        Parameters
        ----------
        seconds
            How far to jump: forwards, or backwards if negative.

        Raises
        ------
        FaultError
            *seconds* is not a number or is 0, the node is off, or the guest rejects the time.
        """
        vm = self._vm
        if not is_number(seconds, -FARTHEST, FARTHEST):
            raise FaultError(
                f"clock.jump() needs a number of seconds from {-FARTHEST:g} to {FARTHEST:g}, not {shown(seconds)}.",
                tip="pass a number such as 3600 or -3600",
            )
        if seconds == 0:
            raise FaultError(
                "clock.jump() needs a non-zero number of seconds.", tip="pass a number such as 3600 or -3600"
            )
        what = f"{vm.name} clock jump {seconds:+g} s"
        vm.require_on("its clock cannot jump")
        boot = answer(change(vm, f"{answering(f'cat {BOOT_ID}')}; {_jump(seconds)}", what))

        def undo() -> None:
            change_back(vm, f'[ "$(cat {BOOT_ID})" != {boot} ] || {_jump(-seconds)}', what)

        return self._faults.add(what, undo)


def _jump(seconds: float) -> str:
    return f"date -s '{seconds:+.6f} seconds' >/dev/null"
