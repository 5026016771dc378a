"""The part of the Pi's firmware: gives the kernel, when a node boots again, what its user added to ``cmdline.txt``.

Only the guest can read its disk. So the files are read over SSH: before a clean reboot or shutdown, and otherwise when
the node has booted, which then has to boot once more if they ask for other kernel arguments.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_pidoc.host import documents
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.files import KERNEL_ARGUMENTS
from pytest_pidoc.vm import boot_files
from pytest_pidoc.vm.vm import Unanswered

if TYPE_CHECKING:
    from pytest_pidoc.guest.output import Output
    from pytest_pidoc.vm.vm import Vm

__all__ = ["Firmware", "prepare", "script"]

TIP = "set kernel=, dtb=, append=, memory= or cpus= of the marker, or another model, for what these would choose"
READ_TIMEOUT = 60.0  # seconds
FOLDERS = ("/boot/firmware", "/boot")  # where the boot partition is: since Raspberry Pi OS 12, and before

_TOLD = re.compile(r"^pidoc-boot (\S+) ([A-Za-z0-9+/=]*)\r?$", re.MULTILINE)

#: What the files contained at first is kept beside the guest's configuration, with the name of their folder, which is
#: written last. The files of an image without them are made then, if the node says that it is a Pi. ``cmdline.txt`` is
#: what the node's kernel was really started with.
_SCRIPT = """
set -f
kept=/etc/pidoc-boot
if [ -s $kept/folder ]; then
    read -r folder < $kept/folder
else
    folder=/boot/firmware
    [ -e $folder/cmdline.txt ] || [ ! -e /boot/cmdline.txt ] || folder=/boot
    if CREATE; then
        mkdir -p $folder
        if [ ! -e $folder/cmdline.txt ]; then
            line=
            for word in $(cat /proc/cmdline); do
                case $word in pidoc.* | initrdmem=*) ;; *) line="$line $word" ;; esac
            done
            echo "${line# }" > $folder/cmdline.txt
        fi
        [ -e $folder/config.txt ] || printf %s CONFIG > $folder/config.txt
    fi
    if [ -e $folder/cmdline.txt ]; then
        mkdir -p $kept
        for name in cmdline.txt config.txt; do
            [ ! -e $folder/$name ] || cat $folder/$name > $kept/$name
        done
        sync
        echo $folder > $kept/folder
        sync
    fi
fi
tell() {
    [ ! -f $2 ] || echo "pidoc-boot $1 $(head -c 16384 $2 | base64 | tr -d '\\n')"
}
if [ -s $kept/folder ]; then
    tell folder $kept/folder
    for name in cmdline.txt config.txt; do
        tell before/$name $kept/$name
        tell now/$name $folder/$name
    done
fi
tell own /proc/cmdline
"""


def script(launch: Launch) -> str:
    """Return the shell script that makes the files if the guest should have them, and prints them.

    Nothing if the firmware has no part in that node: an image of Debian that does not say that it is a Pi.
    """
    if not launch.is_pi and not launch.image.manifest.stock:
        return ""
    create = "true" if launch.is_pi else "false"
    return _SCRIPT.replace("CREATE", create, 1).replace("CONFIG", shlex.quote(boot_files.CONFIG), 1)


def prepare(launch: Launch, shell: Callable[[str], Output]) -> None:
    """Make the files in a guest that has booted for the first time, if it should have them."""
    if program := script(launch):
        shell(f"sudo -n sh -c {shlex.quote(program)} >/dev/null")


class Firmware:
    """Reads the boot files of a node, and says what of them it cannot do."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._asked: str | None = None  # the arguments that the files asked for when they were read last
        self._ignored: list[str] = []
        self._said: set[str] = set()

    def read(self, timeout: float = READ_TIMEOUT) -> bool:
        """Read the files, for *timeout* seconds at most; tell whether they ask for other kernel arguments than before.

        They are not read if the guest does not answer.
        """
        vm = self._vm
        if not (program := script(vm.launch)):
            return False
        try:
            said = vm.ask(f"sudo -n sh -c {shlex.quote(program)}", timeout=max(1, int(timeout))).stdout
        except Unanswered:
            return False
        told = {name: content for name, text in _TOLD.findall(said) if (content := _decoded(text)) is not None}
        folder = told.get("folder", b"").decode("utf-8", "replace").strip()
        if folder not in FOLDERS:
            return False
        given, machine = self._given(), vm.launch.machine
        own = " ".join(told.get("own", b"").decode("ascii", "replace").split()).removesuffix(given)
        asked = boot_files.asked(
            told.get("now/cmdline.txt"),
            told.get("before/cmdline.txt"),
            own=own.strip(),
            architecture=machine.architecture,
        )
        settings = boot_files.ignored_settings(
            told.get("now/config.txt"),
            told.get("before/config.txt"),
            cpu=machine.cpu,
            architecture=machine.architecture,
        )
        self._asked = asked.arguments
        self._ignored = [f"{folder}/cmdline.txt {each}" for each in asked.ignored]
        if settings:
            self._ignored.append(
                f"{folder}/config.txt has settings that nothing here follows, since QEMU has no such firmware: "
                f"{shown(', '.join(settings))}"
            )
        return asked.arguments != given

    def pass_on(self) -> None:
        """Let the next start of QEMU have the arguments that were read last, or else those of its last start."""
        arguments = self._given() if self._asked is None else self._asked
        self._vm.launch = replace(self._vm.launch, arguments=arguments)
        documents.write(self._vm.directory / KERNEL_ARGUMENTS, arguments, mode=0o600)

    def forget(self) -> None:
        """Let the next start of QEMU have no arguments of the user's: the node gets its first disk back."""
        self._asked = ""
        self.pass_on()

    def warn(self) -> None:
        """Warn of what the files ask for and was not done, once of each."""
        new = [each for each in self._ignored if each not in self._said]
        self._said.update(new)
        if new:
            lines = "\n".join(f"  {each}." for each in new)
            warnings.warn(
                f"{self._vm.name} has booted, but some of what its boot files ask for has no effect:\n{lines}\n"
                f"Try: {TIP}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _given(self) -> str:
        """Return the arguments that the user had added before the last start of QEMU, by whatever process."""
        try:
            return documents.content(self._vm.directory / KERNEL_ARGUMENTS).decode()
        except (OSError, ValueError):
            return ""


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
