"""Bad arguments of ``Cluster.up``, of a node and of a LAN: each is refused before anything is done, and says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from bad_inputs import almost, anything, judged
from hypothesis import given
from hypothesis import strategies as st
from support import LAN_NAMES, StandInEngine, make_image, make_launch, node_of

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.lan import conditions
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.machines import MODELS
from pytest_pidoc.node import Node
from pytest_pidoc.settings.spec import ClusterSpec
from pytest_pidoc.values.checks import is_seconds
from pytest_pidoc.values.faults import FaultLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAST = hypothesis.settings.get_profile("soak")

ARGUMENTS = list(ClusterSpec.__dataclass_fields__)
GOOD = almost(
    "3", "local", "auto", *MODELS, "512M", "0.5", "60", "warm", "yes", "debian", "tcp", "udp", "ssh.socket", "127.0.0.1"
)
NUMBERS = st.floats() | st.integers(-2, 70000) | anything

#: A node that is off would be started with the others.
UNUSABLE = NUMBERS.filter(lambda value: value is not None and not is_seconds(value))


@pytest.mark.usefixtures("nothing_left")
@FAST
@given(st.dictionaries(st.sampled_from(ARGUMENTS), GOOD | anything, max_size=3))
def test_arguments_of_up(arguments: dict[str, Any]) -> None:
    with judged():
        Cluster.up(**arguments)


@pytest.fixture
def engine() -> StandInEngine:
    engine = StandInEngine()
    engine.reason = "QEMU ended with status 0"
    return engine


@pytest.fixture
def node(tmp_path: Path, engine: StandInEngine) -> Iterator[Node]:
    """A node that has ended: what it is asked with good arguments is refused, too, for that reason."""
    launch = make_launch(tmp_path / "c-00000000" / "pi-1", make_image(tmp_path / "image"))
    node = node_of(launch, engine, Endpoint("local", "127.0.0.1", 1, launch.directory, "1:2:3"))
    yield node
    assert node.faults.all() == []
    assert node.forwards == ()


CALLS: dict[str, Callable[..., st.SearchStrategy[Any]]] = {
    "forward": lambda any_: st.fixed_dictionaries({"port": NUMBERS}, optional={"protocol": any_}),
    "wait_for_port": lambda any_: st.fixed_dictionaries({"port": NUMBERS}, optional={"host": any_, "timeout": NUMBERS}),
    "wait_for_unit": lambda any_: st.fixed_dictionaries({"name": any_}, optional={"timeout": NUMBERS}),
    "wait_until_succeeds": lambda any_: st.fixed_dictionaries({"command": any_}, optional={"timeout": NUMBERS}),
    "start": lambda any_: st.fixed_dictionaries({"command": any_}, optional={"sudo": any_}),
    "reboot": lambda any_: st.fixed_dictionaries({"timeout": NUMBERS}),
    "shutdown": lambda any_: st.fixed_dictionaries({"timeout": NUMBERS}),
    "power_on": lambda any_: st.fixed_dictionaries({"timeout": UNUSABLE}),
    "reset": lambda any_: st.fixed_dictionaries({"timeout": UNUSABLE}),
    "cpu.limit": lambda any_: st.fixed_dictionaries({"share": NUMBERS}),
    "clock.jump": lambda any_: st.fixed_dictionaries({"seconds": NUMBERS}),
    "disk.fill": lambda any_: st.fixed_dictionaries({"leave": NUMBERS}),
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("call", CALLS)
@FAST
@given(data=st.data())
def test_arguments_of_a_node(node: Node, call: str, data: st.DataObject) -> None:
    arguments = data.draw(CALLS[call](GOOD | anything))
    method = node
    for name in call.split("."):
        method = getattr(method, name)
    with judged():
        method(**arguments)
        pytest.fail(f"a node that is off has done it: {call}")


SOME = st.sampled_from(LAN_NAMES) | almost(*LAN_NAMES) | anything
GROUP = st.lists(SOME, max_size=3) | SOME
WORSE = {
    "delay": NUMBERS,
    "jitter": NUMBERS,
    "loss": NUMBERS,
    "rate": NUMBERS,
    "between": st.tuples(GROUP, GROUP) | SOME,
}


@FAST
@given(st.lists(GROUP, max_size=4))
def test_groups_of_a_partition(lan: Lan, groups: list[Any]) -> None:
    _undone(lan, lambda log: conditions.partition(lan, log, groups))


@FAST
@given(st.fixed_dictionaries({}, optional=WORSE))
def test_degrees_of_degradation(lan: Lan, given: dict[str, Any]) -> None:
    asked = {"delay": 0.0, "jitter": 0.0, "loss": 0.0, "rate": None, "between": None, **given}
    _undone(lan, lambda log: conditions.degrade(lan, log, **asked))


def _undone(lan: Lan, make: Callable[[FaultLog], object]) -> None:
    """Make a fault and undo it: whatever it was, the switch lives on, and knows of no condition any more."""
    log = FaultLog()
    with judged():
        make(log)
    assert log.undo_all() == []
    assert lan.conditions() == []
