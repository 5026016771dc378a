"""Which engine is chosen, by what is here."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support import forbidden_socket, unix_server

from pytest_pidoc.engines.choose import choose
from pytest_pidoc.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_docker")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def qemu(programs: Path) -> None:
    """Put programs of QEMU's names into PATH: here it only matters that they are there."""
    for name in ("qemu-system-aarch64", "qemu-img"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)


@pytest.fixture
def hanging_docker(short_path: Path, monkeypatch: pytest.MonkeyPatch, no_docker: str) -> Iterator[None]:
    done = threading.Event()

    def hang(connection: socket.socket) -> None:
        done.wait(30)

    with unix_server(short_path / "docker.sock", hang) as path:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield
        done.set()


@pytest.mark.usefixtures("qemu")
def test_local_with_qemu() -> None:
    """Local is local where QEMU is."""
    assert choose("local") == "local"


@pytest.mark.usefixtures("qemu")
def test_auto_is_local_without_docker() -> None:
    """Auto takes QEMU where no daemon answers."""
    assert choose("auto") == "local"


@pytest.mark.docker
def test_auto_is_docker_where_its_daemon_answers(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    """Auto takes Docker first, also where there is no QEMU."""
    monkeypatch.delenv("DOCKER_HOST")

    assert choose("auto") == "docker"


@pytest.mark.docker
@pytest.mark.usefixtures("qemu")
def test_auto_is_local_for_access_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not Docker, also where its daemon answers."""
    monkeypatch.delenv("DOCKER_HOST")

    assert choose("auto", host_access=True) == "local"


@pytest.mark.usefixtures("programs")
def test_access_to_the_host_without_qemu() -> None:
    """The engine docker is no way out, unless without it."""
    with pytest.raises(EngineUnavailable, match="The engine local requires QEMU") as caught:
        choose("auto", host_access=True)

    assert caught.value.tip.endswith("or use --pidoc-engine=docker without host_access")


@pytest.mark.usefixtures("programs")
def test_local_without_qemu() -> None:
    """The error names what is missing, how to get it, and the other engine."""
    with pytest.raises(EngineUnavailable, match="qemu-system-aarch64 and qemu-img cannot be found on PATH") as caught:
        choose("local")

    assert "apt-get install" in caught.value.tip
    assert "--pidoc-engine=docker" in caught.value.tip


@pytest.mark.parametrize("missing", ["qemu-system-aarch64", "qemu-img"])
@pytest.mark.usefixtures("qemu")
def test_local_with_half_of_qemu(programs: Path, missing: str) -> None:
    """Both the emulator and the disk tool are needed."""
    (programs / missing).unlink()
    with pytest.raises(EngineUnavailable):
        choose("local")


@pytest.mark.usefixtures("qemu")
def test_docker_without_a_daemon_is_an_error(no_docker: str) -> None:
    """Who asks for Docker gets Docker or an error, never something else."""
    with pytest.raises(EngineUnavailable, match="No Docker daemon listens") as caught:
        choose("docker")

    assert no_docker in caught.value.what


@pytest.mark.usefixtures("programs")
def test_auto_with_nothing_names_both_remedies() -> None:
    """One error says what both engines lack."""
    with pytest.raises(EngineUnavailable) as caught:
        choose("auto")

    assert "No Docker daemon listens" in caught.value.what
    assert "qemu-system-aarch64" in caught.value.what
    assert "qemu-system-arm" in caught.value.tip
    assert "docker.io" in caught.value.tip


@pytest.mark.usefixtures("programs")
def test_daemon_that_may_not_be_used_keeps_its_tip(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not use the daemon that runs is told how to, and not how to start it."""
    short_path.chmod(0o755)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{short_path / 'docker.sock'}")
    with forbidden_socket(short_path / "docker.sock"):
        with pytest.raises(EngineUnavailable, match="Permission denied") as of_auto:
            choose("auto")
        with pytest.raises(EngineUnavailable, match="Permission denied") as of_docker:
            choose("docker")

    for caught in (of_auto, of_docker):
        assert "add your user to the group docker" in caught.value.tip
        assert "start docker" not in caught.value.tip
    assert "install QEMU" in of_auto.value.tip
    assert "--pidoc-engine" not in of_auto.value.tip  # neither would do
    assert of_docker.value.tip.endswith("or use --pidoc-engine=local")


@pytest.mark.usefixtures("qemu", "hanging_docker")
def test_auto_does_not_wait_long_for_a_hanging_daemon() -> None:
    """A daemon that does not answer costs some seconds, then QEMU is taken."""
    start = time.monotonic()

    assert choose("auto") == "local"
    assert time.monotonic() - start < 10


@pytest.mark.usefixtures("hanging_docker")
def test_docker_with_a_hanging_daemon_ends_in_bounded_time() -> None:
    """Who asks for Docker hears after some seconds that its daemon hangs."""
    start = time.monotonic()
    with pytest.raises(EngineUnavailable, match="did not answer within"):
        choose("docker")

    assert time.monotonic() - start < 10
