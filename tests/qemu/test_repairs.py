"""What is put right on a restored board: on QEMU's own boards, which stand still without a guest."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from support import make_image, make_launch, qmp_peer, require_machine, unix_server

from pytest_pidoc.errors import MonitorError
from pytest_pidoc.machines import MODELS
from pytest_pidoc.qemu import repairs
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.qtest import QTest
from pytest_pidoc.values.files import QMP_SOCKET, QTEST_SOCKET

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.qemu

SD_ON_SDHOST = (0o44 << 24, 0o4444)  # pins 48 to 53 with function ALT0, as Linux sets them

SYSTEM_TIMER_OF_BCM2837 = 0x3F003000  # which no guest of ours uses


@pytest.fixture(params=[name for name, row in MODELS.items() if row.needs_qtest])
def board(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Launch]:
    """A board whose processors stand still."""
    row = MODELS[request.param]
    require_machine(row)
    launch = make_launch(short_path / "node", make_image(short_path / "image"), machine=row)
    command = [
        *(row.binary, "-machine", row.machine, "-S", "-nodefaults", "-display", "none"),
        *("-netdev", "user,id=net0"),
        *("-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"),
        *("-chardev", f"socket,id=qtest,path={QTEST_SOCKET},server=on,wait=off"),
        *("-qtest", "chardev:qtest", "-qtest-log", "none"),
    ]
    with subprocess.Popen(command, cwd=launch.directory) as process:
        try:
            # What answers has opened all its sockets; a file alone may be one that nobody listens on yet.
            Monitor.connect(launch.directory / QMP_SOCKET, patience=10).close()
            yield launch
        finally:
            process.kill()


@pytest.mark.parametrize("board", [name for name, row in MODELS.items() if row.sd_gpio is not None], indirect=True)
def test_registers_are_as_before(board: Launch) -> None:
    """The card is moved by a change of the pins' functions, which are then what the guest had set."""
    gpio = board.machine.sd_gpio
    assert gpio is not None
    with QTest(board.directory / QTEST_SOCKET) as bus:
        for register, value in zip((0x10, 0x14), SD_ON_SDHOST, strict=True):
            bus.write(gpio + register, value)

    with Monitor.connect(board.directory / QMP_SOCKET) as monitor:
        repairs.apply(board, monitor)

        with QTest(board.directory / QTEST_SOCKET) as bus:
            assert (bus.read(gpio + 0x10), bus.read(gpio + 0x14)) == SD_ON_SDHOST
        assert "usb-net" in monitor.human("info qtree")


def test_system_timer_is_about_to_fire(board: Launch) -> None:
    """Both compare registers that Linux may use are a little ahead of the counter, which stands still meanwhile."""
    timer = board.machine.system_timer
    with Monitor.connect(board.directory / QMP_SOCKET) as monitor:
        repairs.apply(board, monitor)

    with QTest(board.directory / QTEST_SOCKET) as bus:
        counter, *compares = (
            bus.read((timer or SYSTEM_TIMER_OF_BCM2837) + register) for register in (0x04, 0x10, 0x18)
        )
        ahead = [(compare - counter) % (1 << 32) for compare in compares]
        assert ahead == ([20_000, 20_000] if timer else [-counter % (1 << 32)] * 2)


def test_screen_is_the_guests_again_and_its_memory_too(board: Launch) -> None:
    """The firmware is asked in a message that lies where the guest may have something."""
    mine = [0x11111111 * number for number in range(8)]
    with QTest(board.directory / QTEST_SOCKET) as bus:
        for number, value in enumerate(mine):
            bus.write(repairs.SCRATCH + 4 * number, value)

    with Monitor.connect(board.directory / QMP_SOCKET) as monitor:
        repairs.apply(board, monitor)

    with QTest(board.directory / QTEST_SOCKET) as bus:
        assert [bus.read(repairs.SCRATCH + 4 * number) for number in range(8)] == mine
        assert bus.read((board.machine.mailbox or 0) + 0x18) >> 30 & 1  # no message waits


def test_refusal_is_an_error(board: Launch) -> None:
    """What QEMU says is shown."""
    with QTest(board.directory / QTEST_SOCKET) as bus, pytest.raises(MonitorError, match="refused"):
        bus._command("make tea")


def test_qemu_that_is_gone_is_told(short_path: Path) -> None:
    """An empty answer is the end, and no number."""

    def hang_up(connection: socket.socket) -> None:
        connection.recv(100)

    with (
        unix_server(short_path / QTEST_SOCKET, hang_up) as path,
        QTest(path) as bus,
        pytest.raises(MonitorError, match="it is gone"),
    ):
        bus.read(0)


def test_machine_without_quirks_is_left_alone(short_path: Path) -> None:
    """Nothing is asked of a machine whose state QEMU saves."""
    launch = make_launch(short_path / "node", make_image(short_path / "image"))
    requests: list[dict[str, object]] = []
    with (
        unix_server(launch.directory / QMP_SOCKET, qmp_peer({}, requests=requests)) as path,
        Monitor.connect(path) as monitor,
    ):
        repairs.apply(launch, monitor)

    assert [request["execute"] for request in requests] == ["qmp_capabilities"]
