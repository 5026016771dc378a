"""The device tree that a node boots with.

For a board it is Debian's or Raspberry Pi's, without what QEMU's board lacks. A driver that touches a device which
QEMU does not emulate gets an external abort, and the kernel panics. The edits are those with which Linux 6.1 boots on
QEMU 7.2 to 10.0, and some for the trees of the Pi's own kernels; what a tree does not have is left alone.

For a virtual machine it is QEMU's own. To announce a board, QEMU first writes that tree to a file, and the names of
the board replace QEMU's.
"""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.errors import ImageError
from pytest_pidoc.host import records
from pytest_pidoc.machines import MIB
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.files import DEVICE_TREE

if TYPE_CHECKING:
    import fdt

    from pytest_pidoc.machines import Machine
    from pytest_pidoc.qemu.launch import Launch
    from pytest_pidoc.qemu.program import Qemu

__all__ = ["announcing", "edited", "tree"]

DUMP_TIMEOUT = 30.0  # seconds until QEMU has written its tree; 0.1 s on an idle host


def tree(launch: Launch, qemu: Qemu) -> bytes | None:
    """Return the device tree blob that the node boots with; ``None`` if QEMU makes it.

    Parameters
    ----------
    launch
        The node.
    qemu
        What runs its QEMU.

    Raises
    ------
    ImageError
        The image has no tree for that board, or it cannot be read.
    EngineUnavailable
        QEMU does not write its own tree.
    """
    machine, files = launch.machine, launch.image.manifest.files
    if launch.announce_board:
        given = edited(launch.image.file("dtb"), machine) if "dtb" in files else None
        return announcing(machine, given or _qemus_own(launch, qemu))
    role = "dtb" if "dtb" in files else machine.tree  # the former was given by the user
    if not role:
        return None
    if role not in files:
        known = ", ".join(sorted(name for name in files if name.startswith("dtb/"))) or "no device trees"
        raise ImageError(
            f"The image {launch.image} has no device tree {machine.tree} for {machine.name}; it has {known}.",
            tip="set one with --pidoc-dtb=PATH",
        )
    return edited(launch.image.file(role), machine)


@functools.cache
def edited(path: Path, machine: Machine) -> bytes:
    """Return the tree in the file *path* with the edits that QEMU's *machine* needs, and what the Pi's firmware adds.

    Raises
    ------
    ImageError
        The file cannot be read, or is not a device tree.
    """
    try:
        blob = _parsed(path.read_bytes())
        for change in _EDITS.get(machine.machine, ()):
            change(blob)
        if machine.tree:
            _add_what_firmware_adds(blob, machine)
        return bytes(blob.to_dtb(version=17))
    except Exception as error:  # the library has no exception of its own: a damaged tree raises any kind
        raise ImageError(f"Cannot read {path} as a device tree: {shown(error)}.") from error


def announcing(machine: Machine, own: bytes) -> bytes:
    """Return *own*, the tree of QEMU's *machine* or the user's, saying that it is the board of that model.

    What it calls itself stays the last of the compatible strings. From the others a 32-bit kernel takes the name of
    the hardware (``BCM2835`` in ``/proc/cpuinfo``) and nothing else: it starts CPUs by PSCI if the tree has it.
    """
    try:
        blob = _parsed(own)
        before = blob.get_property("compatible", "/") if blob.exist_property("compatible", "/") else ()
        blob.set_property("model", machine.board, "/")
        blob.set_property("compatible", [*machine.compatible, *before], "/")
        _add_what_firmware_adds(blob, machine)
        return bytes(blob.to_dtb(version=17))
    except Exception as error:  # any kind, as in edited()
        raise ImageError(
            f"Cannot announce the board {machine.board} in the device tree: {shown(error)}.",
            tip="leave announce_board out, or set dtb=PATH to another tree",
        ) from error


def _add_what_firmware_adds(blob: fdt.FDT, machine: Machine) -> None:
    """Add the board's revision code, from which libraries know its pins, and a seed for random numbers.

    QEMU (since 7.2) fills the seed with random bytes at every reset, here as in its own tree. Without it a guest waits
    for its random numbers: most of a second on a ``pi3-virt``, 4 s on a ``pi3``.
    """
    import fdt

    for path, item in (
        ("system", fdt.PropWords("linux,revision", machine.revision)),
        ("chosen", fdt.PropBytes("rng-seed", *bytes(32))),
    ):
        if not blob.exist_node(path):
            blob.add_item(fdt.Node(path), "/")
        if not blob.exist_property(item.name, path):
            blob.add_item(item, path)


_parsing = threading.Lock()


def _parsed(blob: bytes) -> fdt.FDT:
    """Return the tree of a blob, with its own list of reserved memory.

    The library (0.3.3) keeps one list for all the trees of a process: each got the reservations of those before it.
    """
    import fdt

    with _parsing:
        fdt.FDT().entries.clear()
        tree = fdt.parse_dtb(blob)
        tree.entries = list(tree.entries)
    return tree


_dumps: dict[tuple[str, ...], bytes] = {}
_dumping = threading.Lock()


def _qemus_own(launch: Launch, qemu: Qemu) -> bytes:
    """Return the tree that QEMU makes for the node, which is the same for all nodes of that model and size."""
    machine = launch.machine
    arguments = [
        *("-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"),
        # Without random seeds: the tree is the same each time, and so is the key of a template.
        *("-machine", f"{machine.machine},dtb-randomness=off,dumpdtb={DEVICE_TREE}"),
        *("-cpu", machine.cpu, "-smp", str(launch.cores), "-m", f"{launch.memory // MIB}M"),
    ]
    key = (qemu.qemu_version(machine.binary).text, machine.binary, *arguments)
    with _dumping:
        if key not in _dumps:
            # Beside the nodes' directories: what those mount, a Docker daemon sees here, too.
            with tempfile.TemporaryDirectory(prefix="tree-", dir=records.root()) as directory:
                qemu.run_qemu(machine.binary, arguments, timeout=DUMP_TIMEOUT, directory=Path(directory))
                _dumps[key] = Path(directory, DEVICE_TREE).read_bytes()
        return _dumps[key]


_Edit = Callable[["fdt.FDT"], None]


def _set(path: str, name: str, value: str) -> _Edit:
    """Set a text property of a node, if the tree has that node."""

    def edit(blob: fdt.FDT) -> None:
        if blob.exist_node(path):
            blob.set_property(name, value, path)

    return edit


def _flag(path: str, name: str) -> _Edit:
    """Give a node a property without a value, if the tree has that node."""

    def edit(blob: fdt.FDT) -> None:
        import fdt

        if blob.exist_node(path):
            blob.add_item(fdt.Property(name), path)

    return edit


def _drop(path: str, name: str) -> _Edit:
    """Remove a property."""

    def edit(blob: fdt.FDT) -> None:
        if blob.exist_property(name, path):
            blob.remove_property(name, path)

    return edit


def _remove(path: str) -> _Edit:
    """Remove a node."""

    def edit(blob: fdt.FDT) -> None:
        if blob.exist_node(path):
            parent, _, name = path.rpartition("/")
            blob.remove_node(name, parent)

    return edit


def _memory(address: int, size: int) -> _Edit:
    """Add more RAM. QEMU disables every node called ``memory`` but the one that it writes itself."""

    def edit(blob: fdt.FDT) -> None:
        import fdt

        node = fdt.Node(f"ram@{address:x}")
        node.append(fdt.PropStrings("device_type", "memory"))
        node.append(fdt.PropWords("reg", address >> 32, address & 0xFFFFFFFF, size))
        blob.add_item(node, "/")

    return edit


# Linux numbers the ports by these names. Debian's trees call the second UART serial1 on each board, the Pi's call it
# serial0 on those with Bluetooth, and the Pi's kernel has only one port for it. Without them each of the two is the
# first of its kind with any kernel: ttyAMA0 and ttyS0.
_PORTS = (_drop("/aliases", "serial0"), _drop("/aliases", "serial1"))

# A Bluetooth chip at the end of the first UART keeps Linux from making that a terminal, which is the agent's port.
_UART = _remove("/soc/serial@7e201000/bluetooth")

# The board's pins do not lead the second UART out, so it is off; here it is the agent's port.
_SECOND_UART = _set("/soc/serial@7e215040", "status", "okay")

_EDITS: dict[str, tuple[_Edit, ...]] = {
    "raspi1ap": (*_PORTS, _SECOND_UART),
    "raspi0": (
        *_PORTS,
        _SECOND_UART,
        _set("/soc/usb@7e980000", "dr_mode", "host"),
    ),  # otg: no pin selects the mode
    "raspi2b": (*_PORTS, _SECOND_UART),
    "raspi3b": (*_PORTS, _UART),
    "raspi4b": (
        *_PORTS,
        _UART,
        # What QEMU lacks: the second level interrupt controller of HDMI, its clocks and I2C busses, and HDMI itself.
        *(
            _set(f"/soc/{name}", "status", "disabled")
            for name in (
                "interrupt-controller@7ef00100",
                "clock@7ef00000",
                "i2c@7ef04500",
                "i2c@7ef09500",
                "hdmi@7ef00700",
                "hdmi@7ef05700",
            )
        ),
        # QEMU's card is in the slot of the older controller, where the board has its Wi-Fi. In the Pi's trees that
        # controller is there twice, and the newer one was called emmc2 at first.
        _set("/emmc2bus/mmc@7e340000", "status", "disabled"),
        _set("/emmc2bus/emmc2@7e340000", "status", "disabled"),
        _set("/soc/mmcnr@7e300000", "status", "disabled"),
        _drop("/soc/mmc@7e300000", "non-removable"),
        _drop("/soc/mmc@7e300000", "mmc-pwrseq"),
        _remove("/soc/mmc@7e300000/wifi@1"),
        _flag("/soc/mmc@7e300000", "broken-cd"),
        _set("/soc/mmc@7e300000", "status", "okay"),
        # The Pi's trees number three controllers and not this one, which would be the fourth: /dev/mmcblk3.
        _set("/aliases", "mmc0", "/soc/mmc@7e300000"),
        # The USB-C port: there is no PCIe, and so none of the other ports.
        _set("/soc/usb@7e980000", "dr_mode", "host"),
        _set("/soc/usb@7e980000", "status", "okay"),
        _memory(0x4000_0000, 0x4000_0000),  # QEMU describes only the first gigabyte
    ),
}
