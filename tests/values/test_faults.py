"""Faults and the log of them."""

from __future__ import annotations

import re

import pytest

from pytest_pidoc.values.faults import FaultLog


def test_fault_is_undone_once() -> None:
    """At the end of the block, by hand, or both."""
    undone: list[str] = []
    log = FaultLog()

    with log.add("a cut", lambda: undone.append("a cut")) as fault:
        assert fault.active
        fault.undo()
    fault.undo()

    assert undone == ["a cut"]
    assert not fault.active


def test_faults_are_undone_in_reverse_order() -> None:
    """What one that cannot be undone says is returned, and the others are undone."""
    undone: list[str] = []
    log = FaultLog()
    log.add("first", lambda: undone.append("first"))
    log.add("second", lambda: {}["nothing"])
    log.add("third", lambda: undone.append("third"))

    (error,) = log.undo_all()

    assert isinstance(error, KeyError)
    assert undone == ["third", "first"]


def test_fault_says_when_it_was_and_how_long() -> None:
    log = FaultLog()
    fault = log.add("partition pi-1 | pi-2", lambda: None)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} partition pi-1 \| pi-2, not undone", str(fault))

    fault.undo()

    assert re.search(r"undone after 0\.\d{3} s$", str(fault))


def test_log_forgets_what_is_undone() -> None:
    log = FaultLog()
    log.add("one", lambda: None).undo()
    lasting = log.add("two", lambda: None)

    log.clear()

    assert log.all() == [lasting]


def test_fault_that_cannot_be_undone_lasts() -> None:
    """A second attempt may succeed."""
    attempts = iter([OSError("not yet"), None])

    def undo() -> None:
        if error := next(attempts):
            raise error

    fault = FaultLog().add("one", undo)
    with pytest.raises(OSError, match="not yet"):
        fault.undo()
    assert fault.active

    fault.undo()

    assert not fault.active
