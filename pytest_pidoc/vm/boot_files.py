"""What ``cmdline.txt`` and ``config.txt`` ask for: of the Pi's firmware, and of what can be done here in its place.

A node has kernel arguments of its own: its disk and console are not a Pi's. So what counts is the difference to what
the files contained at first. What a user adds to ``cmdline.txt`` is added to those arguments. See
https://www.raspberrypi.com/documentation/computers/configuration.html#kernel-command-line-cmdline-txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_pidoc.images.stock import boot_files
from pytest_pidoc.values.checks import shown

__all__ = ["CONFIG", "Asked", "asked", "ignored_settings"]

#: What ``config.txt`` contains in a node whose image has none. Playbooks look for some of these lines.
CONFIG = """\
# For more options and information see
# http://rptl.io/configtxt
# This Raspberry Pi is emulated by QEMU: settings that are made here have no effect. pytest-pidoc warns of those that
# were added, when the node has booted again.

# Uncomment some or all of these to enable the optional hardware interfaces
#dtparam=i2c_arm=on
#dtparam=i2s=on
#dtparam=spi=on

# Enable the serial console, which every node has
#enable_uart=1

[all]
"""

#: Names of arguments with which the node would not boot, or could not be reached.
FIXED = frozenset(
    {
        *("root", "rootfstype", "rootflags", "ro", "init", "rdinit", "initrd", "initrdmem", "noinitrd"),
        *("console", "net.ifnames", "module_blacklist", "--"),
        *("systemd.unit", "single", "s", "emergency", "rescue", "1", "-b"),
    }
)
#: How long a kernel's command line can be, with the zero byte at its end: COMMAND_LINE_SIZE of arm64 and of arm.
LONGEST = {"arm64": 2048, "armhf": 1024, "armel": 1024}

_ARGUMENT = re.compile(r'(?:"[^"]*"?|[^\s"])+')


@dataclass(frozen=True)
class Asked:
    """What ``cmdline.txt`` asks for.

    Attributes
    ----------
    arguments
        The kernel arguments that were added to it and can be passed on, separated by spaces.
    ignored
        What cannot be done, in sentences about the file without their subject: ``is empty, so ...``.
    """

    arguments: str = ""
    ignored: tuple[str, ...] = ()


def asked(now: bytes | None, before: bytes | None, *, own: str, architecture: str) -> Asked:
    """Return what a ``cmdline.txt`` asks for.

    Parameters
    ----------
    now, before
        Its content, and what it was at first; ``None`` if there was or is no such file.
    own
        The node's own kernel arguments.
    architecture
        Debian's name of the kernel's.
    """
    if now == before:
        return Asked()
    if now is None:
        return Asked(ignored=("is missing, so a Pi would not boot; here it adds no arguments",))
    line, *others = now.decode("utf-8", "replace").split("\n")
    line = line.strip()
    others = [other.strip() for other in others if other.strip()]
    notes = [f"must be one line: {shown(' '.join(others))} is ignored"] if others else []
    if not line:
        return Asked(ignored=("has an empty first line, so a Pi would not boot; here it adds no arguments", *notes))
    if not line.isascii() or not line.replace("\t", " ").isprintable():
        return Asked(ignored=("must be printable ASCII text; it adds no arguments",))
    former = _arguments((before or b"").decode("utf-8", "replace").split("\n")[0])
    present = _arguments(line)
    added = [each for each in dict.fromkeys(present) if each not in former]
    refused = [each for each in added if _name(each) in FIXED]
    passed = " ".join(each for each in added if each not in refused)
    if refused:
        notes.append(f"cannot set {' '.join(refused)}: with it the node would not boot or could not be reached")
    names = {_name(each) for each in present}
    kept = [each for each in former if _name(each) not in names and each in _arguments(own)]
    if kept:
        notes.append(f"cannot take away {' '.join(kept)}: it is one of the node's own kernel arguments")
    longest = LONGEST[architecture] - 1
    if passed and (length := len(own) + 1 + len(passed)) > longest:
        notes.append(
            f"is too long: with the node's own arguments it has {length} characters, and the kernel takes {longest}; "
            "it adds no arguments"
        )
        passed = ""
    return Asked(passed, tuple(notes))


def ignored_settings(now: bytes | None, before: bytes | None, *, cpu: str, architecture: str) -> tuple[str, ...]:
    """Return the settings that were added to a ``config.txt`` and have no effect, as they stand there.

    The parameters are those of `asked`, and the board's processor, as QEMU calls it. The sections of the file that are
    for other boards do not count.
    """
    former = set(_settings(before or b"", cpu))
    added = [pair for pair in dict.fromkeys(_settings(now or b"", cpu)) if pair not in former]
    true = {("enable_uart", "1"), ("arm_64bit", "1" if architecture == "arm64" else "0")}
    return tuple("=".join(pair) for pair in added if pair not in true)


def _settings(content: bytes, cpu: str) -> Iterator[tuple[str, str]]:
    return boot_files.settings(content.decode("utf-8", "replace"), boot_files.CPUS[cpu].sections)


def _arguments(line: str) -> list[str]:
    """Return the arguments in a line; what is in double quotes is part of one."""
    return _ARGUMENT.findall(line)


def _name(argument: str) -> str:
    """Return an argument's name; the kernel takes a hyphen for an underscore, but its first character."""
    name = argument.partition("=")[0].lower()
    return name[:2] + name[2:].replace("-", "_")
