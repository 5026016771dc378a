"""Saving a board and going on with it, in real QEMU: its guest is nothing but a program of a few instructions."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import time
from typing import TYPE_CHECKING

import pytest
from bare_metal import make_image
from support import make_launch

from pytest_pidoc import migration, qemu
from pytest_pidoc.engines.engine import OVERLAY, SCREEN, SERIAL_LOG, STATE
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

#: What the Pi's kernel does when it starts: it tells the firmware, by the mailbox, how large its screen is.
SETS_THE_SCREEN = struct.pack(
    "<16I",
    0x10000101,  # adr  x1, message
    0xB27D0021,  # orr  x1, x1, #8               the channel of properties
    0xD2A7E000,  # movz x0, #0x3f00, lsl #16
    0xF2971400,  # movk x0, #0xb8a0              the mailbox to the firmware
    0xB9000001,  # str  w1, [x0]
    0xD503207F,  # end: wfi
    0x17FFFFFF,  # b    end
    0xD503201F,  # nop
    *(32, 0),  # message: its size in bytes, a request
    *(0x48003, 8, 8, WIDTH, HEIGHT),  # set the physical width and height
    0,  # the end
)


def size_of(picture: Path) -> tuple[int, int]:
    return struct.unpack_from(">II", picture.read_bytes(), 16)


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
    """Save a board whose guest has set its screen; return what is forked from it."""
    row = dataclasses.replace(MODELS["pi3"], tree="")
    image = make_image(short_path / "image", kernel=SETS_THE_SCREEN)
    launch = make_launch(short_path / "saved", image, machine=row, record=True)
    template = short_path / "template"
    template.mkdir()
    with running(launch) as node:
        deadline = time.monotonic() + 30
        while size_of(node.screenshot(template / SCREEN)) != (WIDTH, HEIGHT):
            assert time.monotonic() < deadline, "the guest has not set its screen"
        node.close()
        (launch.directory / SERIAL_LOG).touch()
        migration.save(launch.directory, node.qemu_version)
        collect(launch.directory, template, BuildLog(short_path / "log"))
    fork = make_launch(short_path / "fork", image, machine=row, template=template)
    (fork.directory / OVERLAY).write_bytes(qemu.empty_overlay(template / OVERLAY))
    return fork


def test_restored_board_has_the_screen_of_the_saved_one(fork: Launch, short_path: Path) -> None:
    """QEMU would draw the picture of 1920 x 1080 on one of 640 x 480, and may die of that."""
    with running(fork) as node:
        assert size_of(node.screenshot(short_path / "picture.png")) == (WIDTH, HEIGHT)
        assert node.death() is None


def test_state_that_qemu_refuses(fork: Launch) -> None:
    """The error says how QEMU ended, and what it said."""
    assert fork.template is not None
    state = fork.template / STATE
    state.write_bytes(b"no state" + state.read_bytes()[8:])

    with pytest.raises(RestoreFailed, match="pi-1 cannot be started warm: QEMU ended with status 1") as caught:
        LocalEngine().start(fork)

    assert "Not a migration stream" in caught.value.evidence
