"""What the fast tests share: directories of their own for clusters and images."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import paramiko
import pytest
from support import LAN_NAMES, SshServer, StandInEngine, make_image, served_node

from pytest_pidoc.host import records
from pytest_pidoc.lan.lan import Lan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_pidoc.node import Node

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
    return records.root()


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    """Give an SSH server that the key of its ``image`` opens."""
    image = make_image(tmp_path / "image")
    key = paramiko.ECDSAKey.from_private_key_file(str(image.file("private_key")))
    with contextlib.closing(SshServer(tmp_path / "home", client_key=key)) as running:
        running.image = image
        yield running


@pytest.fixture
def engine() -> StandInEngine:
    """Give the engine of ``node``, which says how that died."""
    return StandInEngine()


@pytest.fixture
def node(short_path: Path, server: SshServer, engine: StandInEngine) -> Iterator[Node]:
    """Give a node whose guest is ``server``."""
    with served_node(server, short_path, engine=engine) as node:
        yield node


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """Give a real switch, on whose ports nobody is: one for each of ``LAN_NAMES``."""
    directory: Path = tmp_path_factory.mktemp("c")
    for name in LAN_NAMES:
        (directory / name).mkdir()
    lan, child = Lan.start(directory, LAN_NAMES)
    yield lan
    child.kill()
    child.wait()
