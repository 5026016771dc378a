"""Measuring a command, against a real SSH server of this machine: its Python, its shell, and its clock."""

from __future__ import annotations

import hashlib

import pytest
from support import SshServer, eventually

from pytest_pidoc.errors import BenchmarkError
from pytest_pidoc.node import Node
from pytest_pidoc.pi_benchmark import measure as measuring
from pytest_pidoc.pi_benchmark.measure import Measurement, measure
from pytest_pidoc.pi_benchmark.metrics import METRICS

WALL_TIME = METRICS["wall_time"]


def test_each_round_is_measured(node: Node) -> None:
    """The command runs that often, and takes on this machine's clock at least as long as it sleeps."""
    found = measure(node, "echo x >>runs; sleep 0.2", wanted=WALL_TIME, rounds=3)

    assert len(found.rounds["wall_time"]) == 3
    assert all(0.15 < seconds < 20 for seconds in found.rounds["wall_time"])
    assert all(0.2 <= seconds < 20 for seconds in found.rounds["virtual_time"])
    assert node.run("wc -l <runs").stdout.strip() == "3"


def test_setup_runs_before_each_round(node: Node) -> None:
    """What it does is not measured."""
    found = measure(node, "test -e fresh && rm fresh", setup="sleep 1; touch fresh", wanted=WALL_TIME, rounds=2)

    assert all(seconds < 0.9 for seconds in found.rounds["wall_time"])


def test_program_is_known_by_its_hash(node: Node, server: SshServer) -> None:
    """The first word names it; what is no file has none."""
    (server.home / "prog").write_text("#!/bin/sh\n")
    (server.home / "prog").chmod(0o755)

    expected = hashlib.sha256(b"#!/bin/sh\n").hexdigest()
    assert measure(node, "./prog a b", wanted=WALL_TIME, rounds=1).program == expected
    assert measure(node, "cd . && ./prog", wanted=WALL_TIME, rounds=1).program is None


@pytest.mark.parametrize(
    ("command", "how"),
    [("echo why >&2; exit 3", "failed with status 3"), ("echo why; kill -9 $$", "was ended by signal 9")],
)
def test_command_that_fails_is_an_error(node: Node, command: str, how: str) -> None:
    """What it printed is shown, and it is not run again."""
    with pytest.raises(BenchmarkError, match=rf"The command .* {how} on pi-1") as caught:
        measure(node, f"echo x >>runs; {command}", wanted=WALL_TIME, rounds=3)

    assert caught.value.evidence.strip() == "why"
    assert node.run("wc -l <runs").stdout.strip() == "1"


def test_setup_that_fails_is_an_error(node: Node) -> None:
    """The command is not run then."""
    with pytest.raises(BenchmarkError, match=r"The setup 'echo why; false' failed with status 1") as caught:
        measure(node, "touch ran", setup="echo why; false", wanted=WALL_TIME)

    assert caught.value.evidence.strip() == "why"
    assert not node.run("test -e ran", warn=True).ok


def test_command_that_never_ends_is_ended(node: Node, server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its children; the error says how long it was given."""
    monkeypatch.setattr(measuring, "GRACE", 3.0)
    with pytest.raises(BenchmarkError, match=r"did not end on pi-1 within 0\.5 s \(1 x 0\.5 s\)"):
        measure(node, "sh -c 'while :; do date >alive; sleep 0.1; done'", wanted=WALL_TIME, rounds=1, timeout=0.5)

    alive = server.home / "alive"
    alive.unlink()
    assert not eventually(alive.exists, timeout=0.5)


def test_clock_that_does_not_count_gives_no_instructions(node: Node) -> None:
    """What this machine's processor counts is not what was asked for."""
    with pytest.raises(BenchmarkError, match="its clock does not count instructions") as caught:
        measure(node, "true", wanted=METRICS["instructions"], rounds=1)

    assert "mips=1000" in caught.value.tip


def test_guest_without_python_is_told(node: Node, server: SshServer) -> None:
    """The error has what the guest said."""
    (server.home / "bin" / "python3").write_text("#!/bin/sh\necho no such thing >&2\nexit 127\n")
    (server.home / "bin" / "python3").chmod(0o755)

    with pytest.raises(BenchmarkError, match="'true' could not be measured on pi-1") as caught:
        measure(node, "true", wanted=WALL_TIME)

    assert "no such thing" in caught.value.evidence
    assert "python3" in caught.value.tip


def test_median_and_spread() -> None:
    """The spread is a share of the median."""
    found = Measurement("true", {"instructions": (101.0, 99.0, 100.0), "guest_time": (0.0, 0.0)})

    assert (found.value("instructions"), found.spread("instructions")) == (100.0, 0.02)
    assert found.spread("guest_time") == 0.0
