"""What the fast tests share: directories of their own for clusters and images."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from pytest_pidoc import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

# A busy machine makes single examples slow; the tests themselves are bounded by their number.
hypothesis.settings.register_profile("pidoc", deadline=None, max_examples=200, database=None)
hypothesis.settings.load_profile("pidoc")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a directory whose path is short enough for any unix socket."""
    with tempfile.TemporaryDirectory(prefix="p-") as folder:
        yield Path(folder)


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep clusters apart from those of this machine, in child processes too; return where they are."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return runtime.root()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Clear the environment of settings and pin the cache directory, which is returned."""
    for name in list(os.environ):
        if name.startswith("PIDOC_"):
            monkeypatch.delenv(name)
    cache = tmp_path / "cache"
    monkeypatch.setenv("PIDOC_CACHE_DIR", str(cache))
    return cache


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let DOCKER_HOST name a socket that is not there; return it."""
    address = "unix:///nowhere/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    return address
