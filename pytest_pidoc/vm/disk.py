"""The disk of a node: how much is free on its root file system."""

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

# Blocks that nobody has written to cost nothing on the host; the last few, which fallocate may not take, are written.
# ext4 keeps some for itself that not even root can have, and counts them as free.
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
        """Let the root file system be full, for root too, until that is undone.

        A file takes the place. It is not written, so that this takes no time and no room on the host.

        Parameters
        ----------
        leave
            How many bytes are left free, at most. Of those, other users get what ext4 does not keep for root.

        Raises
        ------
        FaultError
            It is not a number of bytes, less is free already, or the node is off.
        """
        vm = self._vm
        if not is_whole(leave, 0, MOST):
            raise FaultError(f"A disk cannot be filled but for {shown(leave)} bytes.", tip="0 or more")
        what = f"{vm.name} disk full but for {leave} bytes"
        vm.require_on("its disk cannot be filled")
        filler = f"/.pidoc-filler-{secrets.token_hex(4)}"
        change(vm, _FILL.format(leave=leave, filler=filler), what)

        def undo() -> None:
            change_back(vm, f"rm -f {filler}", what)

        return self._faults.add(what, undo)
