"""What the tests of several nodes share: nodes on real SSH servers in this process."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import paramiko
import pytest
from support import SshServer, StandInEngine, make_image, make_launch, node_of, vm_of

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.lifecycle.attempt import Member, Started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("pi-1", "pi-2", "pi-3")


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    return [tmp_path / "homes" / name for name in NAMES]


@pytest.fixture
def cluster(tmp_path: Path, short_path: Path, homes: list[Path]) -> Iterator[Cluster]:
    """Give three nodes, each of which knows its name: ``cat name``."""
    image, members = make_image(tmp_path / "image"), []
    key = paramiko.ECDSAKey.from_private_key_file(str(image.file("private_key")))
    with contextlib.ExitStack() as closing:
        for number, (name, home) in enumerate(zip(NAMES, homes, strict=True), 1):
            server = closing.enter_context(contextlib.closing(SshServer(home, client_key=key)))
            (home / "name").write_text(name)
            launch = make_launch(short_path / name, image, lan=f"192.168.77.{number}")
            endpoint = Endpoint("local", "127.0.0.1", server.port, launch.directory, "1:2:3")
            launch = dataclasses.replace(launch, name=name)
            node = node_of(launch, StandInEngine(), endpoint, host_keys=[server.public_key])
            closing.enter_context(contextlib.closing(node))
            members.append(Member(node, vm_of(node)))
        yield Cluster(Started(short_path, None, None, tuple(members)))  # type: ignore[arg-type]
