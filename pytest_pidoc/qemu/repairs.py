"""Repairs of a restored board, before the guest resumes, for state that QEMU does not save.

All of it was found with QEMU 10.0.2. With that and with 7.2.22, raspi1ap and raspi3b were restored with live guests,
and the screen of raspi3b was drawn. The machine is paused meanwhile.
"""

from __future__ import annotations

from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.qtest import QTest
from pytest_pidoc.values.files import QTEST_SOCKET

__all__ = ["apply"]

# Registers of the BCM2835, as distances from the start of a device: "BCM2835 ARM Peripherals", sections 6.1 and 12.1.
GPFSEL4, GPFSEL5 = 0x10, 0x14  # the functions of pins 40 to 49 and 50 to 53, three bits a pin
CLO, C1, C3 = 0x04, 0x10, 0x18  # the low half of the counter, and the compare registers that Linux can use

WRITE = 0x20  # distance from where a mailbox returns messages to where it accepts them
PROPERTIES = 8  # the mailbox's channel
GET_SCREEN, SET_SCREEN = 0x40003, 0x48003  # the properties that are its physical width and height
SCRATCH = 0x1000  # an address in the RAM; the guest's content is restored afterwards

SD_PINS_OF_GPFSEL4 = 0o77 << 24  # pins 48 and 49
SD_PINS_OF_GPFSEL5 = 0o7777  # pins 50 to 53
SOON = 20_000  # microseconds


def apply(launch: Launch, monitor: Monitor) -> None:
    """Repair a paused machine that has read its state.

    Raises
    ------
    MonitorError
        QEMU rejected a command.
    """
    machine = launch.machine
    if machine.needs_qtest:
        with QTest(launch.directory / QTEST_SOCKET) as bus:
            if machine.sd_gpio is not None:
                _route_sd_card(bus, machine.sd_gpio)
            if machine.system_timer is not None:
                _arm_system_timer(bus, machine.system_timer)
            if machine.mailbox is not None:
                _redraw_screen(bus, machine.mailbox)
    if machine.plugs_network:
        _plug_network(launch, monitor)


def _route_sd_card(bus: QTest, gpio: int) -> None:
    """Connect the SD card to the controller that the guest uses.

    The functions of pins 48 to 53 select one of two controllers. QEMU saves those registers, but moves the card only
    when they change, so a restored card is on the controller of a reset, and every read fails.
    """
    four, five = bus.read(gpio + GPFSEL4), bus.read(gpio + GPFSEL5)
    bus.write(gpio + GPFSEL4, four & ~SD_PINS_OF_GPFSEL4)
    bus.write(gpio + GPFSEL5, five & ~SD_PINS_OF_GPFSEL5)
    bus.write(gpio + GPFSEL4, four)
    bus.write(gpio + GPFSEL5, five)


def _arm_system_timer(bus: QTest, timer: int) -> None:
    """Let the system timer fire soon, so that the guest sets it again: QEMU does not save a running timer."""
    soon = bus.read(timer + CLO) + SOON & 0xFFFFFFFF
    for compare in (C1, C3):
        bus.write(timer + compare, soon)


def _redraw_screen(bus: QTest, mailbox: int) -> None:
    """Restore the screen to the size that the guest has set, and redraw it.

    QEMU saves the size, but its buffer has the size of a reset: a screenshot of a larger screen wrote beyond the
    buffer's end and crashed QEMU. QEMU also saves that nothing has changed since the last picture, although a restored
    machine has no picture. Asking the firmware to set the size that it reports repairs both.
    """
    # https://github.com/raspberrypi/firmware/wiki/Mailbox-property-interface
    kept = [bus.read(SCRATCH + 4 * word) for word in range(8)]
    width, height = _ask_firmware(bus, mailbox, GET_SCREEN, 0, 0)
    _ask_firmware(bus, mailbox, SET_SCREEN, width, height)
    for word, value in enumerate(kept):
        bus.write(SCRATCH + 4 * word, value)


def _ask_firmware(bus: QTest, mailbox: int, tag: int, first: int, second: int) -> tuple[int, int]:
    """Send one property with two values; return the two values of the answer."""
    message = [32, 0, tag, 8, 8, first, second, 0]
    for word, value in enumerate(message):
        bus.write(SCRATCH + 4 * word, value)
    bus.write(mailbox + WRITE, SCRATCH | PROPERTIES)
    bus.read(mailbox)  # removes the answer, so that the guest's mailbox is as empty as before
    answer = [bus.read(SCRATCH + 4 * word) for word in range(len(message))]
    return answer[5], answer[6]


def _plug_network(launch: Launch, monitor: Monitor) -> None:
    """Plug the network cards in: QEMU can neither save the state of a ``usb-net`` nor unplug one."""
    for device in qemu.network_cards(launch):
        driver, *settings = device.split(",")
        monitor.execute("device_add", driver=driver, **dict(setting.split("=", 1) for setting in settings))
