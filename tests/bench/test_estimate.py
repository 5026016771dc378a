"""Estimates of times on real boards: what follows from counts and published figures."""

from __future__ import annotations

import json

import pytest

from pytest_pidoc.bench.estimate import EstimateReport, factor, guess
from pytest_pidoc.bench.published import CORES, PHYSICAL

PRIMES = "sysbench prime, 10,000 events"
REPORT = EstimateReport("QEMU 10.0.2", {PRIMES: 1.0e11, "bash loop": 2.0e10})


def test_what_was_published_is_its_own_estimate() -> None:
    for board, seconds in PHYSICAL.items():
        assert guess(board, 1.0e11, 1.0e11).seconds == pytest.approx(seconds)


def test_an_estimate_is_as_long_as_its_instructions_are_many() -> None:
    """A fifth of them, a fifth of the time; and as far off on the one side as on the other."""
    found = guess("Pi 1", 2.0e10, 1.0e11)

    assert found.seconds == pytest.approx(330.6 / 5)
    assert found.seconds / found.least == pytest.approx(factor(1.0e11))
    assert found.most / found.seconds == pytest.approx(factor(1.0e11))


def test_the_error_is_the_furthest_that_a_board_is_from_its_limit() -> None:
    """Of 416.7e9 that a Pi 4B can issue in its 92.6 s, these are a quarter; no other board is so far off."""
    assert factor(416.7e9 / 4) == pytest.approx(4.0, rel=1e-4)


def test_more_instructions_than_a_board_can_issue_are_an_error_as_well() -> None:
    """Another compiler has made fewer of the program that was published: by four here, for a Pi Zero W."""
    assert factor(228.2e9 * 4) == pytest.approx(4.0)


def test_no_estimate_is_shown_without_its_error() -> None:
    """Each is followed by its least and its most."""
    *_, row, _, _ = str(REPORT).splitlines()

    assert row.count(" to ") == len(PHYSICAL)
    assert "66.1 (15.9 to 276)" in row


def test_every_published_board_has_a_core() -> None:
    assert CORES.keys() == PHYSICAL.keys()


def test_report_as_json() -> None:
    told = json.loads(json.dumps(REPORT.to_dict()))

    assert told["instructions"]["bash loop"] == 2.0e10
    assert told["seconds"]["bash loop"]["Pi 1"].keys() == {"seconds", "least", "most"}
