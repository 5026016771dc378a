"""Every error that pytest-pidoc raises of its own.

::

    PidocError
    ├── SettingsError          a marker, option or file says something impossible
    ├── NoRoom                 this machine's memory is taken by other nodes
    ├── EngineUnavailable      neither QEMU nor Docker can be used here
    ├── ImageError             an image cannot be built, read or trusted
    │   ├── ChecksumMismatch   a file is not what its manifest says
    │   ├── DownloadError      a source did not arrive whole
    │   └── ImageInUse         it cannot be removed or replaced: nodes run from it
    ├── BootError              a node did not become ready
    │   ├── BootTimeout        ... in the time it was given
    │   ├── RestoreFailed      ... because its saved machine does not go on
    │   ├── NodeDied           ... because its QEMU or container ended, or was ended
    │   └── KernelPanic        ... because its kernel gave up
    ├── ConsoleError           the serial console did not do what was expected
    ├── MonitorError           QEMU refused a command, or is gone
    ├── FaultError             a fault cannot be made or undone
    ├── WaitError              what was waited for cannot come
    │   └── WaitTimeout        ... or has not come in its time
    └── BenchmarkError         something cannot be measured, or held against a baseline
        └── BenchmarkSlower    ... or costs more than the baseline allows

What a user runs on a node and fails is not here: that stays ``invoke.UnexpectedExit``.
"""

from __future__ import annotations

__all__ = [
    "BenchmarkError",
    "BenchmarkSlower",
    "BootError",
    "BootTimeout",
    "ChecksumMismatch",
    "ConsoleError",
    "DownloadError",
    "EngineUnavailable",
    "FaultError",
    "ImageError",
    "ImageInUse",
    "KernelPanic",
    "MonitorError",
    "NoRoom",
    "NodeDied",
    "PidocError",
    "RestoreFailed",
    "SettingsError",
    "WaitError",
    "WaitTimeout",
]


class PidocError(Exception):
    """The base of every error of pytest-pidoc.

    ``str(error)`` says what failed, the evidence, where to look and what to try, in that order.

    Parameters
    ----------
    what
        One sentence: what failed, with names and numbers.
    evidence
        The last lines of a log, shown indented.
    look
        Where more can be read: a path or a command.
    tip
        What to do next.
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
    """A marker, an option, an environment variable or an ini value is not usable."""


class NoRoom(PidocError):
    """Nodes do not fit into this machine's memory beside those that run.

    Parameters
    ----------
    what, evidence, look, tip
        As for `PidocError`.
    others
        Whether other processes' nodes are among those that run, and may end soon.
    """

    def __init__(self, what: str, *, evidence: str = "", look: str = "", tip: str = "", others: bool = False) -> None:
        super().__init__(what, evidence=evidence, look=look, tip=tip)
        self.others = others


class EngineUnavailable(PidocError):
    """The engine asked for cannot be used on this machine."""


class ImageError(PidocError):
    """An image cannot be built, read or trusted."""


class ChecksumMismatch(ImageError):
    """A file is not what its manifest says it is."""


class DownloadError(ImageError):
    """A source did not arrive whole."""


class ImageInUse(ImageError):
    """An image cannot be removed or replaced, since nodes run from it."""


class BootError(PidocError):
    """A node did not become ready."""


class BootTimeout(BootError):
    """A node was not ready in the time it was given."""


class RestoreFailed(BootError):
    """A saved machine does not go on; a start falls back to saving a new one, then to a cold boot."""


class NodeDied(BootError):
    """A node's QEMU process or container ended by itself, or the node is off because it was asked to be."""


class KernelPanic(BootError):
    """A node's kernel gave up: a panic, or no root device."""


class ConsoleError(PidocError):
    """The serial console did not show what was expected."""


class MonitorError(PidocError):
    """QEMU refused a monitor command, or is gone."""


class FaultError(PidocError):
    """A fault cannot be made, or not be undone: a wrong argument, a node that is off, a LAN without its switch."""


class WaitError(PidocError):
    """What was waited for cannot come any more: the unit has failed."""


class WaitTimeout(WaitError):
    """What was waited for has not come in its time."""


class BenchmarkError(PidocError):
    """A command cannot be measured, or there is no baseline that it can be held against."""


class BenchmarkSlower(BenchmarkError):
    """A command costs more than the baseline and the limit allow."""
