"""Saving a board and going on with it, in real QEMU: its guest is nothing but a program of a few instructions."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

import pytest
from bare_metal import DRAWS, HEIGHT, WIDTH, make_image
from matplotlib.image import imread
from support import make_launch, node_of, vm_of

from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import RestoreFailed
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.lifecycle.saving import collect
from pytest_pidoc.machines import MODELS
from pytest_pidoc.node import Node
from pytest_pidoc.qemu import migration
from pytest_pidoc.qemu.overlay import empty_overlay
from pytest_pidoc.values.files import OVERLAY, SERIAL_LOG, STATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_pidoc.qemu.launch import Launch

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("clusters")]


def is_drawn(picture: Path) -> bool:
    """Tell whether a PNG is as large as the guest's screen, and white at the top and black at the bottom."""
    points = imread(picture)
    return points.shape[:2] == (HEIGHT, WIDTH) and points[0].all() and not points[-1, :, :3].any()


@contextlib.contextmanager
def running(launch: Launch) -> Iterator[Node]:
    engine = LocalEngine()
    with contextlib.closing(node_of(launch, engine, engine.start(launch))) as node:
        try:
            yield node
        finally:
            vm_of(node).stop()


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
    (fork.directory / OVERLAY).write_bytes(empty_overlay(template / OVERLAY))
    return fork


def test_restored_board_shows_what_the_saved_one_did(fork: Launch, short_path: Path) -> None:
    """Its screen has the size that the guest had set, and is drawn although nothing has changed since."""
    with running(fork) as node:
        assert is_drawn(node.screenshot(short_path / "after.png"))
        assert vm_of(node).death() is None


def test_state_that_qemu_refuses(fork: Launch) -> None:
    """The error says how QEMU ended, and what it said."""
    assert fork.template is not None
    state = fork.template / STATE
    state.write_bytes(b"no state" + state.read_bytes()[8:])

    with pytest.raises(RestoreFailed, match="pi-1 cannot be started warm: QEMU ended with status 1") as caught:
        LocalEngine().start(fork)

    assert "Not a migration stream" in caught.value.evidence
