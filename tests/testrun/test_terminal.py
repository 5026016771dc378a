"""Progress on pytest's own terminal."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(("option", "lines"), [("-v", 2), ("--tb=short", 1), ("-q", 0)])
def test_copies_are_reported_that_a_start_would_not_be(pytester: pytest.Pytester, option: str, lines: int) -> None:
    """A start is worth a line after a while; a copy is reported only if it takes long, so each report is shown."""
    pytester.makepyfile("""
        from pytest_pidoc.testrun.terminal import PytestProgress

        def test_copy(pytestconfig):
            progress = PytestProgress(pytestconfig)
            progress.step("starting a node")
            progress.anew().step("copying build to pi-1")
    """)

    shown = pytester.runpytest_subprocess(option).outlines
    steps = [line.partition("] ")[2] for line in shown if line.startswith("pidoc: [")]

    assert steps == ["starting a node", "copying build to pi-1"][2 - lines :]
