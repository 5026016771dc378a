"""The names of the files in a node's directory, and in a template's."""

from __future__ import annotations

__all__ = [
    "AGENT_SOCKET",
    "BOOT_ELF",
    "CONSOLE_SOCKET",
    "DEVICE_TREE",
    "EVENTS",
    "KERNEL_ARGUMENTS",
    "LAN_SOCKET",
    "OFF",
    "OVERLAY",
    "QEMU_COMMAND",
    "QEMU_LOG",
    "QMP_SOCKET",
    "QTEST_SOCKET",
    "RAM",
    "RESTARTS_HANDLED",
    "SCREENSHOT",
    "SERIAL_LOG",
    "STATE",
]

# The files in a node's directory. QEMU runs in that directory and gets the bare names: the path of a unix socket
# must not exceed 107 bytes, but paths in pytest's temporary directories often do.
OVERLAY = "overlay.qcow2"
SERIAL_LOG = "serial.log"
QEMU_LOG = "qemu.log"
QEMU_COMMAND = "qemu.command"  # QEMU's command line, for a shell in that directory
QMP_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
AGENT_SOCKET = "agent.sock"
QTEST_SOCKET = "qtest.sock"  # of a restored board
EVENTS = "events"  # what QEMU reports, in events.out; events.in is what it reads there
RESTARTS_HANDLED = "restarts"  # after how many of its guest the node was brought up, and where in the serial log
OFF = "off"  # who has switched the node off, and when; only while it is off
LAN_SOCKET = "lan.sock"
DEVICE_TREE = "board.dtb"  # of a machine that uses one
KERNEL_ARGUMENTS = "arguments"  # of the kernel, that the user has added to the guest's cmdline.txt
SCREENSHOT = "screenshot.png"  # until it is moved to where it is wanted

# The files in a template, beside its overlay.
RAM = "ram"
STATE = "state"
BOOT_ELF = "boot.elf"  # not for every machine
