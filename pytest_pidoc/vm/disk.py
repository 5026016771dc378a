"""The disk of a node: fills its root file system."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pytest_pidoc.errors import FaultError
from pytest_pidoc.values.checks import is_whole, shown
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.vm.in_guest import change, change_back

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Disk"]

MOST = 2**62  # bytes: what a shell can count

# Blocks that are only allocated cost nothing on the host; the last few, which fallocate might leave, are written.
# ext4 reserves some that not even root can use, and counts them as free.
_FILL = """
kept=/sys/fs/ext4/$(basename $(readlink /sys/dev/block/$(mountpoint -d /)))/reserved_clusters
[ -e $kept ] && kept=$(cat $kept) || kept=0
bytes() {{ set -- $(stat -f -c '%f %S' /); echo $((($1 - kept) * $2)); }}
free=$(bytes)
[ $free -ge {leave} ] || {{ echo "only $free bytes are free"; exit 1; }}
umask 077
: > {filler}
[ $free -eq {leave} ] || fallocate -l $((free - {leave})) {filler} 2>/dev/null || :
[ {leave} -gt 0 ] || dd if=/dev/zero of={filler} oflag=append conv=notrunc bs=4k 2>/dev/null || :
free=$(bytes)
[ $free -le {leave} ] || {{ rm {filler}; echo "$free bytes are still free"; exit 1; }}
"""


class Disk:
    """A node's disk: ``pi.disk``."""

    def __init__(self, vm: Vm, faults: FaultLog) -> None:
        self._vm = vm
        self._faults = faults

    def fill(self, leave: int = 0) -> Fault:
        """Fill the root file system, for root too, until the fault is undone.

        A file takes the space. Its blocks are allocated and not written, so that this is fast and uses no disk space
        of the host.

        Parameters
        ----------
        leave
            How many bytes stay free, at most. Users other than root cannot use those that ext4 reserves for root.

        Raises
        ------
        FaultError
            *leave* is not a number of bytes, less is free already, or the node is off.
        """
        vm = self._vm
        if not is_whole(leave, 0, MOST):
            raise FaultError(
                f"leave must be a whole number of bytes from 0 to {MOST}, not {shown(leave)}.",
                tip="set leave to a number such as 1_000_000, or leave it out",
            )
        what = f"{vm.name} disk full but for {leave} bytes"
        vm.require_on("its disk cannot be filled")
        filler = f"/.pidoc-filler-{secrets.token_hex(4)}"
        change(vm, _FILL.format(leave=leave, filler=filler), what)

        def undo() -> None:
            change_back(vm, f"rm -f {filler}", what)

        return self._faults.add(what, undo)
