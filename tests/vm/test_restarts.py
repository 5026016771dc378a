"""Restarts of a guest, as QEMU's events tell them, and who has dealt with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.vm.restarts import Restarts

if TYPE_CHECKING:
    from pathlib import Path


def tell(directory: Path, name: str, at: float, **data: object) -> None:
    stamp = {"seconds": int(at), "microseconds": round(at % 1 * 1e6)}
    with (directory / "events.out").open("a") as stream:
        stream.write(json.dumps({"timestamp": stamp, "event": name, "data": data}) + "\n")


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("guest-reset", "by the guest itself"),
        ("guest-panic", "after a kernel panic"),
        ("subsystem-reset", "(subsystem-reset)"),
    ],
)
def test_why_it_restarted(tmp_path: Path, reason: str, why: str) -> None:
    """As far as QEMU knows, in words; other events are no restarts."""
    tell(tmp_path, "STOP", 100)
    tell(tmp_path, "RESET", 200.25, guest=True, reason=reason)

    (restart,) = Restarts(tmp_path).all()

    assert (restart.at, restart.why) == (200.25, why)
    assert str(restart).endswith(f"20 {why}")


def test_watchdog_is_named(tmp_path: Path) -> None:
    """QEMU reports it just before the reset; one that did nothing long ago has not restarted the guest."""
    tell(tmp_path, "WATCHDOG", 100, action="reset")
    tell(tmp_path, "RESET", 100.1, reason="guest-reset")
    tell(tmp_path, "RESET", 200, reason="guest-reset")

    assert [restart.why for restart in Restarts(tmp_path).all()] == ["by its watchdog", "by the guest itself"]


def test_every_process_knows_what_was_dealt_with(tmp_path: Path) -> None:
    """Whoever brings the node up again does it for all."""
    one, other = Restarts(tmp_path), Restarts(tmp_path)
    tell(tmp_path, "RESET", 100)
    assert (len(one.unhandled()), len(other.unhandled())) == (1, 1)
    assert one.handled() == (0, 0)

    one.handle(1, 2500)
    assert other.unhandled() == []
    assert other.handled() == (1, 2500)
    tell(tmp_path, "RESET", 200)

    assert [restart.at for restart in other.unhandled()] == [200]
    assert len(Restarts(tmp_path).all()) == 2
