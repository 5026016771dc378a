"""The second stage: an emulated machine boots the unpacked disk once, installs its packages and switches off."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.machines import Machine
from pytest_pidoc.values.progress import Progress

__all__ = ["FAST", "INIT", "finish", "quoted"]

#: Where the disk holds ``guest/build/second-stage``, and the directory that it works from.
INIT = "/var/lib/pidoc/build/second-stage"

#: Kernel arguments for a fast emulated machine. KASLR forces page table isolation, with which each system call
#: switches address spaces and QEMU flushes its TLB: without it everything takes half the time. Other mitigations, the
#: self-tests of the kernel's ciphers (half of its boot) and clearing memory twice protect nothing that is emulated.
FAST = "nokaslr mitigations=off cryptomgr.notests=1 init_on_alloc=0"

# A slow or busy host takes longer, but a working guest prints something every few seconds: on a host where the
# second stage takes two minutes, the longest silence is ten seconds.
SILENCE = 300.0
LIMIT = 3600.0

_MARK = b"pidoc: "
_FAILURES = ("failed", "no root device")


def finish(
    machine: Machine,
    *,
    disk: Path,
    kernel: Path,
    initrd: Path,
    log: BuildLog,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
    interval: float = 0.2,
) -> None:
    """Boot *disk* (qcow2) with the second stage as its first process, and wait until the guest has shut down.

    Parameters
    ----------
    machine
        What to emulate; any number of cores.
    disk, kernel, initrd
        What to boot. The disk is changed.
    log
        Receives the output of the serial console.
    progress
        Is called with each step of the second stage.
    clock, interval
        The clock, and the seconds between two reads of the console.

    Raises
    ------
    ImageError
        QEMU cannot be started, or the second stage failed, printed nothing for 300 s, or took longer than an hour.
    """
    what = "finishing the image in an emulated machine"
    with log.start(_command(machine, disk=disk, kernel=kernel, initrd=initrd), what=what) as process:
        console = _Console(log.path, progress)
        start = heard = clock()
        while process.poll() is None:
            if console.read():
                heard = clock()
            if console.last.startswith(_FAILURES):
                break
            if clock() - heard > SILENCE or clock() - start > LIMIT:
                raise log.error(
                    f"Installing packages in the guest stopped after {clock() - start:.0f} s (limit {LIMIT:.0f} s); "
                    f"its console had been silent for {clock() - heard:.0f} s (limit {SILENCE:.0f} s)."
                )
            time.sleep(interval)
        console.read()
    if console.last != "finished":
        raise log.error(
            f"Installing packages in the guest failed at the step {console.last or 'boot'!r} "
            f"(QEMU's status {process.returncode})."
        )


class _Console:
    """Follows what the guest prints: its ``pidoc:`` lines are steps."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.last = ""
        self._path = path
        self._progress = progress
        self._offset = path.stat().st_size
        self._rest = b""

    def read(self) -> bool:
        """Read new output; tell whether there was any."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            if line.startswith(_MARK):
                self.last = line.removeprefix(_MARK).decode("utf-8", "replace").strip()
                if self.last != "finished":
                    self._progress.step(f"in the guest: {self.last}")
        return bool(new)


def _command(machine: Machine, *, disk: Path, kernel: Path, initrd: Path) -> list[str]:
    return [
        machine.binary,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", machine.machine, "-cpu", machine.cpu, "-smp", "2", "-m", "1G"),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"root={machine.root} console={machine.console} quiet panic=-1 {FAST} init={INIT}"),
        *(
            "-drive",
            f"if=none,id=disk0,format=qcow2,file={quoted(disk)},cache=unsafe,discard=unmap,detect-zeroes=unmap",
        ),
        *("-device", f"{machine.disk},drive=disk0"),
        *(part for device in machine.devices for part in ("-device", device)),
        *("-serial", "stdio"),
    ]


def quoted(path: Path) -> str:
    """Return a path as a value of one of QEMU's options, in which a comma is doubled."""
    return str(path).replace(",", ",,")
