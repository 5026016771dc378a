"""Faults in a guest, as far as they need none: what they refuse, and a limit of the processor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from support import StandInEngine

from pytest_pidoc.errors import FaultError
from pytest_pidoc.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("seconds", [0, 0.0, math.nan, math.inf, -math.inf, True, "60", None])
def test_no_jump(node: Node, seconds: float) -> None:
    """A clock jumps by a number of seconds that is not 0."""
    with pytest.raises(
        FaultError,
        match=r"jump\(\) needs a (number of seconds from -1e\+12 to 1e\+12, not|non-zero number).*\nTry: pass a number",
    ):
        node.clock.jump(seconds)


@pytest.mark.parametrize("leave", [-1, 1.5, math.nan, True, "1M", None])
def test_no_number_of_bytes(node: Node, leave: int) -> None:
    """A disk is filled but for some whole bytes."""
    with pytest.raises(FaultError, match=r"leave must be a whole number of bytes from 0 to .*, not "):
        node.disk.fill(leave)


@pytest.mark.parametrize("share", [0, -0.5, 0.001, math.nan, math.inf, True, "0.5", None])
def test_no_share(node: Node, share: float) -> None:
    """A processor is shared in parts that the kernel can make."""
    with pytest.raises(FaultError, match=r"needs a share of a processor from 0\.01 to 1024, not "):
        node.cpu.limit(share)


@pytest.mark.parametrize(
    "fault",
    [
        lambda node: node.clock.jump(60),
        lambda node: node.disk.fill(),
        lambda node: node.cpu.limit(0.5),
    ],
    ids=["clock", "disk", "cpu"],
)
def test_node_that_is_off(node: Node, engine: StandInEngine, fault: Callable[[Node], object]) -> None:
    """The error says so, and no fault is written down."""
    engine.reason = "QEMU ended with status 0"
    with pytest.raises(FaultError, match=r"pi-1 has died \(QEMU ended with status 0\), so its \w+ cannot "):
        fault(node)

    assert node.faults.all() == []


def test_limit_is_undone(node: Node, engine: StandInEngine) -> None:
    """What the node might use before holds again, of two limits the earlier."""
    with node.cpu.limit(0.5):
        with node.cpu.limit(0.25) as fault:
            assert engine.cpus == 0.25
            assert fault.what == "pi-1 cpu limit 0.25"
        assert engine.cpus == 0.5

    assert engine.cpus is None


def test_node_that_dies_meanwhile(node: Node, engine: StandInEngine) -> None:
    """There is nothing left to undo."""
    fault = node.cpu.limit(0.5)
    engine.reason = "QEMU was killed by signal 9"
    fault.undo()

    assert not fault.active
    assert engine.cpus == 0.5
