"""The serial log of a node: the first place to look when a boot fails."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SerialLog", "plain"]

# What a kernel, or the image's own initrd, prints when it cannot continue.
_PANIC = re.compile(
    rb"Kernel panic - not syncing[^\r\n]*"
    rb"|VFS: Unable to mount root fs[^\r\n]*"
    rb"|pidoc: no root device[^\r\n]*"
    rb"|ALERT!  [^\r\n]* does not exist"  # initramfs-tools
)
# What systemd prints when it gives up: the second line if root has no password, as on a Pi, and the third if it cannot
# even mount the file systems that it needs itself.
_SYSTEMD_GAVE_UP = re.compile(
    rb"You are in emergency mode|Cannot open access to console, the root account is locked|Freezing execution"
)
# What a kernel prints that waits for its root device, with "rootwait" for ever; and what the next step prints.
_AWAITS_ROOT = re.compile(rb"Waiting for root device ([^\r\n]+?)\.\.\.(?!.*VFS: Mounted root)", re.DOTALL)
# What a kernel prints first, unless its console is quiet: one that another kernel has started by kexec, too, of which
# QEMU reports nothing.
_FIRST_WORDS = b"Booting Linux on physical CPU"
# Terminal control: CSI and OSC sequences, and what else is not text.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class SerialLog:
    """A node's serial log: a file with everything that the serial port has printed."""

    path: Path

    def read(self, *, start: int = 0) -> bytes:
        """Return the bytes from offset *start* on; ``b""`` if the log does not exist yet."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                return stream.read()
        except FileNotFoundError:
            return b""

    def size(self) -> int:
        """Return the log's length in bytes."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def tail(self, lines: int = 20, *, start: int = 0, end: int | None = None) -> str:
        """Return the last *lines* lines as plain text, without terminal control and empty lines.

        Of the log, only the bytes from offset *start* to *end* count.
        """
        end = self.size() if end is None else end
        start = max(start, end - 400 * lines)
        return plain(self.read(start=start)[: max(0, end - start)].decode("utf-8", "replace"), lines)

    def panic(self, *, start: int = 0) -> str | None:
        """Return the line in which the guest gave up, looking from offset *start* on, or ``None``.

        A panic before the guest's last restart does not count.
        """
        return self._of_this_boot(_PANIC, start)

    def systemd_gave_up(self, *, start: int = 0) -> str | None:
        """Return the line in which systemd gave up, looking as `panic` does, or ``None``."""
        return self._of_this_boot(_SYSTEMD_GAVE_UP, start)

    def awaited_root(self, *, start: int = 0) -> str | None:
        """Return the root device for which the kernel waits, looking as `panic` does, or ``None``."""
        return self._of_this_boot(_AWAITS_ROOT, start)

    def _of_this_boot(self, pattern: re.Pattern[bytes], start: int) -> str | None:
        """Return the first group of a match, or the whole match, in the output since the guest's last start."""
        text = self.read(start=start)
        found = pattern.search(text, max(0, text.rfind(_FIRST_WORDS)))
        return found[found.lastindex or 0].decode("utf-8", "replace") if found else None


def plain(text: str, lines: int) -> str:
    """Return the last *lines* lines of what a guest printed, without terminal control and empty lines."""
    kept = [line.rstrip() for line in _CONTROL.sub("", text).splitlines() if line.strip()]
    return "\n".join(kept[-lines:])
