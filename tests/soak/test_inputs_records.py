"""Damaged records of clusters: every command of ``pidoc`` and the sweep say what is wrong, or do without."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from bad_inputs import apply, damaged, json_mutated, judged, remove
from hypothesis import given
from hypothesis import strategies as st
from support import make_image

from pytest_pidoc import cli
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import PidocError
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import reaper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAST = hypothesis.settings.get_profile("soak")

NAME = "c-1f2e3d4c"
NODES = ("pi-1", "pi-2")
FILES = [
    *(records.RECORD, f".{records.RECORD}.1", "switch.sock", "switch.log"),
    *(f"{node}/{file}" for node in NODES for file in ("serial.log", "cgroup", "known_hosts", "console.sock", ".")),
    *NODES,
    ".",
]


@pytest.fixture
def record(nothing_left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[dict[str, Any]]:
    """The record of a cluster whose owner is gone."""
    image = make_image(tmp_path / "image")
    boot = processes.identify(os.getpid()).rpartition(":")[2]
    yield {
        "name": NAME,
        "owner": None,
        "created": time.time(),
        "engine": "local",
        "spec": {
            "nodes": 2,
            "model": "pi3-virt",
            "image": "debian:bookworm",
            "engine": "local",
            "memory": None,
            "cpus": None,
            "boot_timeout": None,
            "start": "warm",
            "kernel": None,
            "initrd": None,
            "dtb": None,
            "append": None,
            "announce_board": False,
            "lan": True,
            "internet": True,
        },
        "provision": {"engine": "local", "image": str(image.path), "reference": ""},
        "switch": f"4194303:1:{boot}",
        "template": None,
        "nodes": [
            {
                "name": name,
                "endpoint": {
                    "engine": "local",
                    "host": "127.0.0.1",
                    "port": 40000,
                    "handle": f"4194303:2:{boot}",
                    "directory": str(records.root() / NAME / name),
                },
                "host_keys": ["ssh-ed25519 AAAA"],
                "timings": {"launched": 0.1, "banner": 0.2, "ready": 0.3, "restored": 0.1, "start": "warm"},
            }
            for name in NODES
        ],
    }
    assert not (tmp_path / "outside").exists()


def clear_up() -> None:
    """Remove the cluster's directory, or what came in its place."""
    remove(records.root() / NAME)


def lay_out(record: Any) -> Path:
    """Make the cluster's directory anew, with that record."""
    clear_up()
    directory = records.root() / NAME
    for node in NODES:
        (directory / node).mkdir(parents=True)
        (directory / node / "serial.log").write_text("it booted\n")
    (directory / records.RECORD).write_text(json.dumps(record), encoding="utf-8")
    return directory


def use(*arguments: str) -> None:
    """Run the command; it does not become ``ssh``, which is not installed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = cli.main([*arguments])
    assert status in (0, 1, 2)
    if status:
        raise PidocError(said.getvalue())


USES = {
    "ps": lambda: use("ps"),
    "ps --json": lambda: use("ps", "--json"),
    "ssh": lambda: use("ssh", "pi-1", "--", "true"),
    "ssh CLUSTER/NODE": lambda: use("ssh", f"{NAME}/pi-2"),
    "console": lambda: use("console", "pi-1"),
    "prune": lambda: use("prune"),
    "down": lambda: use("down"),
    "down CLUSTER": lambda: use("down", NAME),
    "attach": lambda: Cluster.attach(NAME).close(),
    "sweep": reaper.sweep,
}


def mixed(good: Any) -> st.SearchStrategy[Any]:
    owners = st.sampled_from(
        [None, "1:2:3", "0:0:0", "-1:2:3", f"{10**20}:2:3", "9" * 5000 + ":1:b", "٣:1:b", f"{os.getpid()}:1:b"]
    )
    handles = st.sampled_from(["", "x", "0:0:0", f"{10**20}:2:3", "9" * 5000 + ":1:b", "self:1:b", "../1:1:b"])
    odd = st.builds(lambda owner: {**good, "owner": owner}, owners) | st.builds(
        lambda handle: {
            **good,
            "switch": handle or None,
            "nodes": [{**node, "endpoint": {**node["endpoint"], "handle": handle}} for node in good["nodes"]],
        },
        handles,
    )
    return json_mutated(good) | odd


@pytest.mark.parametrize("what", USES)
@FAST
@given(data=st.data())
def test_record_that_says_something_else(record: dict[str, Any], what: str, data: st.DataObject) -> None:
    lay_out(data.draw(mixed(record)))
    with judged():
        USES[what]()
    clear_up()


@pytest.mark.parametrize("what", USES)
@FAST
@given(damage=damaged(st.sampled_from(FILES)))
def test_directory_that_is_damaged(record: dict[str, Any], what: str, damage: list[Any]) -> None:
    directory = lay_out(record)
    apply(directory, damage)
    with judged():
        USES[what]()
    clear_up()


@FAST
@given(damage=damaged(st.sampled_from(FILES)))
def test_sweep_of_what_is_damaged(record: dict[str, Any], damage: list[Any]) -> None:
    """A minute later nobody is just making it: it is removed, unless it may have containers."""
    directory = lay_out({**record, "owner": "4194303:1:gone"})
    apply(directory, damage)
    past = time.time() - 2 * reaper.YOUNG
    with contextlib.suppress(FileNotFoundError):
        os.utime(directory, (past, past), follow_symlinks=False)
    with judged():
        reaper.sweep()
    clear_up()
