"""What may be asked of a LAN's faults; tests/lan/test_switch.py has what they do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_pidoc.errors import FaultError
from pytest_pidoc.lan.conditions import degrade, isolate, partition
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.values.faults import FaultLog

PERFECT: dict[str, Any] = {"delay": 0.0, "jitter": 0.0, "loss": 0.0, "rate": None, "between": None}


def test_partition_says_what_it_is(lan: Lan) -> None:
    log = FaultLog()

    partition(lan, log, (["pi-1"], ["pi-2", "pi-4"])).undo()

    assert log.all()[0].what == "partition pi-1 | pi-2, pi-4 | pi-3"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "partition() needs at least one group of nodes."),
        ([["pi-1"], []], "group 2 of the partition: it must contain at least one node."),
        ([["pi-1", "pi-1"]], "group 1 of the partition: pi-1 is named twice."),
        (
            [["pi-1"], ["pi-2", "pi-1"]],
            "pi-1 is in the groups 1 and 2 of the partition, but a node must be in only one.",
        ),
        ([["pi-5"]], "group 1 of the partition: 'pi-5' is not a node of this cluster."),
        ([[3]], "group 1 of the partition: 3 is not a node of this cluster."),
    ],
)
def test_partition_that_cannot_be_meant(lan: Lan, groups: list[list[str]], message: str) -> None:
    log = FaultLog()

    with pytest.raises(FaultError) as caught:
        partition(lan, log, groups)

    assert caught.value.what == message
    assert log.all() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"delay": 0.2, "between": ("pi-1", "pi-2")}, "degraded between pi-1 and pi-2: delay 0.2 s"),
        ({"delay": 0.2, "jitter": 0.05, "loss": 0.1}, "degraded between all: delay 0.2 s, jitter 0.05 s, loss 0.1"),
        ({"rate": 1_000_000, "between": (["pi-1"], ["pi-2", "pi-3"])}, "between pi-1 and pi-2, pi-3: rate 1e+06 bit/s"),
    ],
)
def test_degrading_says_what_it_is(lan: Lan, arguments: dict[str, Any], said: str) -> None:
    with degrade(lan, FaultLog(), **{**PERFECT, **arguments}) as fault:
        assert fault.what.endswith(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "degrade() needs at least one of delay, loss or rate."),
        ({"delay": -0.1}, "delay must be a number of seconds from 0 to 3600, not -0.1."),
        ({"delay": math.nan}, "delay must be a number of seconds from 0 to 3600, not nan."),
        ({"delay": "long"}, "delay must be a number of seconds from 0 to 3600, not 'long'."),
        ({"delay": 0.1, "jitter": 0.2}, "jitter must be a number of seconds from 0 to the delay, 0.1, not 0.2."),
        ({"loss": 1.1}, "loss must be a share of the frames from 0 to 1, not 1.1."),
        ({"rate": 0}, "rate must be a number of bits per second from 1000 to 1e12, not 0."),
        (
            {"loss": 0.1, "between": ("pi-1", "pi-1")},
            "pi-1 is on both sides of between, but a node must be on only one.",
        ),
        ({"loss": 0.1, "between": ("pi-1",)}, "between must be two nodes or two groups of nodes, not ('pi-1',)."),
        ({"loss": 0.1, "between": "pi-1"}, "between must be two nodes or two groups of nodes, not 'pi-1'."),
        ({"loss": 0.1, "between": ("pi-1", "pi-9")}, "between: 'pi-9' is not a node of this cluster."),
    ],
)
def test_degrading_that_cannot_be_meant(lan: Lan, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FaultError) as caught:
        degrade(lan, FaultLog(), **{**PERFECT, **arguments})

    assert caught.value.what == message


def test_nothing_holds_when_all_is_undone(lan: Lan) -> None:
    log = FaultLog()
    connect = isolate(lan, "pi-2")
    partition(lan, log, (["pi-1"],))
    degrade(lan, log, **{**PERFECT, "loss": 0.5})
    assert len(lan.conditions()) == 3

    assert log.undo_all() == []
    connect()

    assert lan.conditions() == []
