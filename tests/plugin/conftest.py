"""What the tests of the plugin share: a run of pytest in which no Pi can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_directories(clusters: Path, no_settings: Path) -> None:
    """Keep the runs away from this machine's clusters and images: pytester replaces HOME."""


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, no_docker: str) -> None:
    """Take QEMU and the Docker daemon away."""
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def one_pi(pytester: pytest.Pytester) -> pytest.Pytester:
    """Write a test that uses a Pi."""
    pytester.makepyfile(
        """
        def test_pi(pi):
            assert pi.run("true").ok
        """
    )
    return pytester
