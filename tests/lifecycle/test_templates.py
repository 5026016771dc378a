"""The key of a template: what can be forked from it, and what cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support import make_image, make_launch

from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.lifecycle import templates
from pytest_pidoc.machines import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_pidoc.qemu.launch import Launch

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("clusters")]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return make_launch(tmp_path / "node", make_image(tmp_path / "image"))


def test_nodes_of_clusters_share_a_template(launch: Launch) -> None:
    """Names and directories do not matter."""
    other = replace(launch, name="pi-2", cluster="c-11111111", directory=launch.directory.with_name("pi-2"))

    assert templates.key(launch, LocalEngine()) == templates.key(other, LocalEngine())


def test_machines_that_differ_have_templates_of_their_own(launch: Launch) -> None:
    """Another memory, clock or name of the board is another machine; so is the board's name in another version."""
    renamed = replace(launch.machine, board="Raspberry Pi 3 Model B Rev 1.3")
    launches = (
        launch,
        replace(launch, memory=256 * MIB),
        replace(launch, announce_board=True),
        replace(launch, announce_board=True, machine=renamed),
        replace(launch, mips=1000.0),
        replace(launch, mips=500.0),
    )

    assert len({templates.key(each, LocalEngine()) for each in launches}) == len(launches)
