"""Leases: one alone or several together, and what is left of those whose holder has died."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from pytest_pidoc.testrun import leases
from pytest_pidoc.testrun.leases import Lease

if TYPE_CHECKING:
    from pathlib import Path


def test_one_alone(tmp_path: Path) -> None:
    """Nobody else gets one, alone or to share, until it is given back."""
    lease = Lease.take(tmp_path, "test_a", shared=False)
    assert lease is not None

    assert Lease.take(tmp_path, "test_b", shared=False) is None
    assert Lease.take(tmp_path, "test_b", shared=True) is None
    assert Lease.to_end(tmp_path) is None
    assert leases.users(tmp_path) == ["test_a"]

    lease.close()
    lease.close()
    assert leases.users(tmp_path) == []
    assert Lease.take(tmp_path, "test_b", shared=False) is not None


def test_several_share(tmp_path: Path) -> None:
    """As long as one of them has it, nobody gets it alone."""
    with Lease.take(tmp_path, "test_a", shared=True) as first:  # type: ignore[union-attr] # it would fail
        second = Lease.take(tmp_path, "test_b", shared=True)
        assert second is not None
        assert sorted(leases.users(tmp_path)) == ["test_a", "test_b"]
        assert not first.is_torn
    assert Lease.take(tmp_path, "test_c", shared=False) is None
    second.close()
    assert Lease.to_end(tmp_path) is not None


def test_who_was_alone_lets_others_in(tmp_path: Path) -> None:
    """The starter of a cluster has it alone until it is there."""
    lease = Lease.take(tmp_path, "test_a", shared=False)
    assert lease is not None

    assert lease.share()
    assert lease.shared
    assert Lease.take(tmp_path, "test_b", shared=True) is not None


def test_nobody_gets_what_is_given_up(tmp_path: Path) -> None:
    """But it can be ended."""
    leases.retire(tmp_path)

    assert Lease.take(tmp_path, "test_a", shared=True) is None
    assert Lease.to_end(tmp_path) is not None


def test_what_is_gone_cannot_be_taken(tmp_path: Path) -> None:
    """A cluster may end at any moment."""
    gone = tmp_path / "gone"
    leases.retire(gone)

    assert Lease.take(gone, "test_a", shared=True) is None
    assert Lease.to_end(gone) is None
    assert leases.users(gone) == []


def test_who_dies_leaves_a_torn_lease(tmp_path: Path) -> None:
    """The lock is free at once; the note tells that nobody gave the cluster back."""
    program = (
        "import os, sys; from pathlib import Path; from pytest_pidoc.testrun.leases import Lease\n"
        "held = Lease.take(Path(sys.argv[1]), 'test_a', shared=False); os._exit(0 if held else 1)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    lease = Lease.take(tmp_path, "test_b", shared=False)

    assert lease is not None
    assert lease.is_torn
    assert leases.users(tmp_path) == ["test_b"]
    assert leases.abandoned_by(tmp_path) == ["test_a"]


def test_who_gives_back_leaves_a_whole_one(tmp_path: Path) -> None:
    """And nothing but the lock's file."""
    with Lease.take(tmp_path, "test_a", shared=False) as lease:  # type: ignore[union-attr] # it would fail
        lease.sign()
        seen = lease.last
    with Lease.take(tmp_path, "test_b", shared=False) as lease:  # type: ignore[union-attr]
        assert not lease.is_torn
        assert lease.last == seen
        lease.sign()
        assert lease.last != seen

    assert {path.name for path in tmp_path.iterdir()} == {leases.LOCK, leases.LAST}


def test_damaged_note_is_a_torn_lease(tmp_path: Path) -> None:
    """Whatever is in it."""
    for text in ("", "[]", "7", '{"user": 1}', '{"user": "x", "holder": null}'):
        (tmp_path / f"{leases.NOTES}0").write_text(text)
        with Lease.take(tmp_path, "test_a", shared=False) as lease:  # type: ignore[union-attr] # it would fail
            assert lease.is_torn, text
