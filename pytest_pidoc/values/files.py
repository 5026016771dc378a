"""The names of the files of a node's directory, and of a template's."""

from __future__ import annotations

__all__ = [
    "AGENT_SOCKET",
    "BOOT_ELF",
    "CONSOLE_SOCKET",
    "DEVICE_TREE",
    "LAN_SOCKET",
    "OVERLAY",
    "QEMU_COMMAND",
    "QEMU_LOG",
    "QMP_SOCKET",
    "QTEST_SOCKET",
    "RAM",
    "SCREENSHOT",
    "SERIAL_LOG",
    "STATE",
]

# The files of a node's directory. QEMU runs in that directory and takes the bare names: a path to a unix
# socket must not pass 107 bytes, which pytest's temporary directories do easily.
OVERLAY = "overlay.qcow2"
SERIAL_LOG = "serial.log"
QEMU_LOG = "qemu.log"
QEMU_COMMAND = "qemu.command"  # QEMU's command line, for a shell in that directory
QMP_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
AGENT_SOCKET = "agent.sock"
QTEST_SOCKET = "qtest.sock"  # of a board that is restored
LAN_SOCKET = "lan.sock"
DEVICE_TREE = "board.dtb"  # of a machine that takes one
SCREENSHOT = "screenshot.png"  # until it is moved to where it is wanted

# The files of a template, beside its overlay.
RAM = "ram"
STATE = "state"
BOOT_ELF = "boot.elf"  # not of every machine
