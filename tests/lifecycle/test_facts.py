"""A cluster as plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support import StandInEngine, make_image, make_launch

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.lifecycle import facts
from pytest_pidoc.node import Node
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.faults import Fault
from pytest_pidoc.vm.bringup import Bringup, Timings
from pytest_pidoc.vm.vm import Vm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def node(tmp_path: Path, engine: StandInEngine) -> Node:
    launch = make_launch(tmp_path / "c-1" / "pi-1", make_image(tmp_path / "image"))
    vm = Vm(launch, engine, Endpoint("local", "127.0.0.1", 40001, launch.directory, "1:2:3"))  # type: ignore[arg-type]
    return Node(vm, Bringup(vm, timings=Timings(launched=0.1, banner=0.2, ready=0.3, start="cold")))


def test_node_has_its_address_command_state_and_timings(node: Node) -> None:
    """Each fact has a key of its own, so that a script need not take a text apart."""
    found = facts.of_node(node)

    assert (found["name"], found["host"], found["port"]) == ("pi-1", "127.0.0.1", 40001)
    assert (found["state"], found["ssh"]) == ("up", node.ssh_command)
    assert found["timings"] == {"launched": 0.1, "banner": 0.2, "ready": 0.3, "start": "cold", "restored": None}


def test_state_that_cannot_be_found_out_is_unknown(
    node: Node, engine: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that does not answer does not cost the other facts."""

    def refuse(_: Endpoint) -> None:
        raise EngineUnavailable("The daemon does not answer.")

    monkeypatch.setattr(engine, "death", refuse)

    assert facts.of_node(node)["state"] == "unknown: The daemon does not answer."
    assert facts.of_node(node)["port"] == 40001


def test_cluster_is_plain_data(tmp_path: Path, node: Node) -> None:
    """JSON has it as it was: what was asked for, the faults with their times, and the switch."""
    fault = Fault("partition pi-1 | pi-2", lambda: None)
    fault.undo()
    spec = replace(Settings().spec({"engine": "local"}), nodes=2)
    found = facts.of_cluster(tmp_path / "c-1", spec, [node], faults=[fault], switch_is_gone=True)

    assert json.loads(json.dumps(found)) == found
    assert (found["cluster"], found["directory"]) == ("c-1", str(tmp_path / "c-1"))
    assert (found["spec"]["nodes"], found["switch"]) == (2, "ended")
    assert [(each["what"], each["ended"] >= each["began"]) for each in found["faults"]] == [(fault.what, True)]
    assert found["nodes"] == [facts.of_node(node)]


def test_a_cluster_without_a_lan_has_no_switch(tmp_path: Path, node: Node) -> None:
    """It is not said to run."""
    assert facts.of_cluster(tmp_path / "c-1", Settings().spec(), [node])["switch"] is None
