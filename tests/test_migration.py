"""Saving a board and going on with it, in real QEMU: its guest is nothing but a program of a few instructions."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import time
from typing import TYPE_CHECKING

import pytest
from bare_metal import make_image
from matplotlib.image import imread
from support import make_launch

from pytest_pidoc import migration, qemu
from pytest_pidoc.engines.engine import OVERLAY, SERIAL_LOG, STATE
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.images.buildlog import BuildLog
from pytest_pidoc.machines import MODELS
from pytest_pidoc.migration import RestoreFailed
from pytest_pidoc.node import Node
from pytest_pidoc.warm import collect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_pidoc.engines.engine import Launch

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("clusters")]

WIDTH, HEIGHT = 1920, 1080

#: What the Pi's kernel does when it starts: it tells the firmware, by the mailbox, how large its screen is, asks where
#: that lies in memory, and draws on it.
DRAWS = struct.pack(
    "<32I",
    0x10000201,  # adr  x1, message
    0xB27D0022,  # orr  x2, x1, #8               the channel of properties
    0xD2A7E000,  # movz x0, #0x3f00, lsl #16
    0xF2971400,  # movk x0, #0xb8a0              the mailbox to the firmware
    0xB9000002,  # str  w2, [x0]
    0xB9402823,  # ldr  w3, [x1, #40]            where the screen is, as the firmware sees it
    0x12007463,  # and  w3, w3, #0x3fffffff
    0x52900004,  # mov  w4, #0x8000
    0x2A3F03E5,  # mvn  w5, wzr
    0xB8004465,  # fill: str w5, [x3], #4        two white points
    0x51000484,  # sub  w4, w4, #1
    0x35FFFFC4,  # cbnz w4, fill
    0xD503207F,  # end: wfi
    0x17FFFFFF,  # b    end
    *(0xD503201F, 0xD503201F),  # nop
    *(64, 0),  # message: its size in bytes, a request
    *(0x48003, 8, 8, WIDTH, HEIGHT),  # set the physical width and height
    *(0x40001, 8, 4, 16, 0),  # where is it?
    *(0, 0, 0, 0),  # the end
)


def is_drawn(picture: Path) -> bool:
    """Tell whether a PNG is as large as the guest's screen, and white at the top and black at the bottom."""
    points = imread(picture)
    return points.shape[:2] == (HEIGHT, WIDTH) and points[0].all() and not points[-1, :, :3].any()


@contextlib.contextmanager
def running(launch: Launch) -> Iterator[Node]:
    engine = LocalEngine()
    with contextlib.closing(Node(launch, engine, engine.start(launch))) as node:
        try:
            yield node
        finally:
            node.stop()


@pytest.fixture
def fork(short_path: Path) -> Launch:
    """Save a board whose guest has drawn on its screen; return what is forked from it."""
    row = dataclasses.replace(MODELS["pi3"], tree="")
    image = make_image(short_path / "image", kernel=DRAWS)
    launch = make_launch(short_path / "saved", image, machine=row, record=True)
    template = short_path / "template"
    template.mkdir()
    with running(launch) as node:
        deadline = time.monotonic() + 30
        while not is_drawn(node.screenshot(short_path / "before.png")):
            assert time.monotonic() < deadline, "the guest has not drawn"
        node.close()
        (launch.directory / SERIAL_LOG).touch()
        migration.save(launch.directory, node.qemu_version)
        collect(launch.directory, template, BuildLog(short_path / "log"))
    fork = make_launch(short_path / "fork", image, machine=row, template=template)
    (fork.directory / OVERLAY).write_bytes(qemu.empty_overlay(template / OVERLAY))
    return fork


def test_restored_board_shows_what_the_saved_one_did(fork: Launch, short_path: Path) -> None:
    """Its screen has the size that the guest had set, and is drawn although nothing has changed since."""
    with running(fork) as node:
        assert is_drawn(node.screenshot(short_path / "after.png"))
        assert node.death() is None


def test_state_that_qemu_refuses(fork: Launch) -> None:
    """The error says how QEMU ended, and what it said."""
    assert fork.template is not None
    state = fork.template / STATE
    state.write_bytes(b"no state" + state.read_bytes()[8:])

    with pytest.raises(RestoreFailed, match="pi-1 cannot be started warm: QEMU ended with status 1") as caught:
        LocalEngine().start(fork)

    assert "Not a migration stream" in caught.value.evidence
