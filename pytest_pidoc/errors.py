"""The errors that pytest-pidoc raises.

::

    PidocError
    ├── SettingsError          a setting or an argument has an invalid value
    ├── NoRoom                 the nodes do not fit into the host's free memory
    ├── EngineUnavailable      this host cannot run nodes: neither with QEMU nor with Docker
    ├── ImageError             an image cannot be built, read or trusted
    │   ├── ChecksumMismatch   a file does not match its checksum
    │   ├── DownloadError      a download failed
    │   └── ImageInUse         an image cannot be removed or replaced: nodes run from it
    ├── BootError              a node did not become ready, or has ended
    │   ├── BootTimeout        ... it was not ready within its time limit
    │   ├── RestoreFailed      ... its saved machine did not resume
    │   ├── NodeDied           ... its QEMU or container has ended, or the test switched it off
    │   ├── KernelPanic        ... its kernel panicked
    │   └── NodeRestarted      ... its guest restarted, and comes up again
    ├── PrepareError           a step of a preparation failed, or the cluster cannot be saved after it
    ├── ConsoleError           the serial console did not show what was expected
    ├── MonitorError           QEMU refused a monitor command, or has ended
    ├── CopyError              a file or a folder cannot be copied to a node or from it
    ├── FaultError             a fault cannot be injected or undone
    ├── WaitError              a wait cannot succeed any more
    │   └── WaitTimeout        ... it did not succeed within its time limit
    └── BenchmarkError         a command cannot be measured or compared with a baseline
        └── BenchmarkSlower    ... it costs more than the baseline and the limit allow

If a command on a node fails, that is none of these: Fabric raises ``invoke.UnexpectedExit``.
"""

from __future__ import annotations

__all__ = [
    "BenchmarkError",
    "BenchmarkSlower",
    "BootError",
    "BootTimeout",
    "ChecksumMismatch",
    "ConsoleError",
    "CopyError",
    "DownloadError",
    "EngineUnavailable",
    "FaultError",
    "ImageError",
    "ImageInUse",
    "KernelPanic",
    "MonitorError",
    "NoRoom",
    "NodeDied",
    "NodeRestarted",
    "PidocError",
    "PrepareError",
    "RestoreFailed",
    "SettingsError",
    "WaitError",
    "WaitTimeout",
]


class PidocError(Exception):
    """The base class of all errors of pytest-pidoc.

    ``str(error)`` shows what failed, the evidence, where to look and what to try, in that order.

    Parameters
    ----------
    what
        What failed, with names and numbers: one sentence.
    evidence
        The last lines of a log or of a command's output; shown indented.
    look
        Where to read more: a path or a command; shown after ``More:``.
    tip
        What to do next, as an imperative; shown after ``Try:``.
    """

    def __init__(self, what: str, *, evidence: str = "", look: str = "", tip: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.evidence = evidence
        self.look = look
        self.tip = tip

    def __str__(self) -> str:
        parts = [self.what]
        if self.evidence.strip():
            parts += [f"    {line}" for line in self.evidence.strip().splitlines()]
        if self.look:
            parts.append(f"More: {self.look}")
        if self.tip:
            parts.append(f"Try: {self.tip}")
        return "\n".join(parts)


class SettingsError(PidocError):
    """A marker, an option, an environment variable, an ini value or an argument is invalid."""


class NoRoom(PidocError):
    """The nodes do not fit into the host's memory while other nodes run.

    Parameters
    ----------
    what, evidence, look, tip
        As for `PidocError`.
    others
        Whether some of the running nodes belong to other processes, so that waiting can help.
    """

    def __init__(self, what: str, *, evidence: str = "", look: str = "", tip: str = "", others: bool = False) -> None:
        super().__init__(what, evidence=evidence, look=look, tip=tip)
        self.others = others


class EngineUnavailable(PidocError):
    """The requested engine cannot be used on this host."""


class ImageError(PidocError):
    """An image cannot be built, read or trusted."""


class ChecksumMismatch(ImageError):
    """A file does not match the checksum in its manifest or URL."""


class DownloadError(ImageError):
    """A download failed or is incomplete."""


class ImageInUse(ImageError):
    """An image cannot be removed or replaced while nodes run from it."""


class BootError(PidocError):
    """A node did not become ready, or it has ended."""


class BootTimeout(BootError):
    """A node was not ready within its time limit."""


class RestoreFailed(BootError):
    """A saved machine did not resume; a start then saves it again, and falls back to a cold boot."""


class NodeDied(BootError):
    """A node is not running: its QEMU process or container has ended, or the test itself switched it off.

    The message of a node that the test switched off says so: ``pi-1 is off since shutdown() at 12:03:04.``
    """


class KernelPanic(BootError):
    """A node's kernel panicked, or found no root device."""


class NodeRestarted(BootError):
    """A node's guest restarted before a command in it had ended; the next call waits until the node is ready again."""


class PrepareError(PidocError):
    """A step of a preparation has failed, or the cluster cannot be saved after it."""


class ConsoleError(PidocError):
    """The serial console did not show what was expected."""


class MonitorError(PidocError):
    """QEMU refused a monitor command, or has ended."""


class CopyError(PidocError):
    """A file or a folder cannot be copied to a node or from it, for a reason that the guest gives."""


class FaultError(PidocError):
    """A fault cannot be injected or undone: an invalid argument, a node that is off, or a LAN without its switch."""


class WaitError(PidocError):
    """A wait cannot succeed any more: the unit has failed."""


class WaitTimeout(WaitError):
    """A wait did not succeed within its time limit."""


class BenchmarkError(PidocError):
    """A command cannot be measured, or not be compared with a baseline."""


class BenchmarkSlower(BenchmarkError):
    """A command costs more than the baseline and the limit allow."""
