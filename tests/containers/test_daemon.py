"""The connection to a daemon that hangs, talks nonsense, may not be used, or is not there."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import forbidden_socket, unix_server

from pytest_pidoc.containers.daemon import connect, daemon_errors
from pytest_pidoc.errors import EngineUnavailable, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a short path for the daemon's socket, which ``DOCKER_HOST`` names."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "docker.sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield path


def test_no_daemon_is_said_at_once(address: Path) -> None:
    """A socket that is not there ends in an error that names it and the way out."""
    with pytest.raises(EngineUnavailable, match="No Docker daemon listens at") as caught:
        connect()
    assert str(address) in str(caught.value)
    assert "apt-get install docker.io" in caught.value.tip


def test_a_daemon_that_ended_is_no_daemon(address: Path) -> None:
    """A socket that is there, but that nobody serves any more, is the same."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
    with pytest.raises(EngineUnavailable, match="No Docker daemon listens at"):
        connect()


def test_a_daemon_that_hangs_ends_in_bounded_time(address: Path) -> None:
    """A daemon that accepts and never answers is given up after the timeout."""
    done = threading.Event()
    start = time.monotonic()

    def hang(connection: socket.socket) -> None:
        done.wait(10)

    with unix_server(address, hang):
        with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.3 s") as caught:
            connect(timeout=0.3)
        elapsed = time.monotonic() - start
        done.set()
    assert elapsed < 2
    assert "restart the daemon" in caught.value.tip


def test_a_daemon_that_drips_ends_in_bounded_time(address: Path) -> None:
    """A byte now and then does not stretch the timeout, as it would with a timeout for each read."""
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not done.wait(0.1):
            connection.sendall(b"x")

    start = time.monotonic()
    with unix_server(address, drip):
        with pytest.raises(EngineUnavailable, match="did not answer"):
            connect(timeout=0.3)
        elapsed = time.monotonic() - start
        done.set()
    assert elapsed < 2


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnonsens",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
    ids=["ssh", "no-json", "other-json", "error", "nothing"],
)
def test_what_is_no_docker_daemon_is_refused(address: Path, answer: bytes) -> None:
    """Whatever a listener says that is not Docker's, the error is ours and names the address."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with (
        unix_server(address, serve),
        pytest.raises(EngineUnavailable, match="does not answer like a Docker") as caught,
    ):
        connect()
    assert str(address) in str(caught.value)


def test_a_host_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped DOCKER_HOST is an error of ours too."""
    monkeypatch.setenv("DOCKER_HOST", "carrier-pigeon://coop")
    with pytest.raises(EngineUnavailable, match="carrier-pigeon://coop"):
        connect()


def test_a_daemon_that_may_not_be_used(address: Path) -> None:
    """A socket that this user may not open: the tip names the group and rootless Docker."""
    with (
        forbidden_socket(address),
        pytest.raises(EngineUnavailable, match="Permission denied for the Docker daemon at") as caught,
    ):
        connect()
    assert "rootless" in caught.value.tip


def test_no_foreign_error_passes_the_edge() -> None:
    """What the SDK and the libraries below it raise becomes EngineUnavailable and names the task."""
    import docker.errors
    import requests
    import urllib3

    foreign = [
        docker.errors.APIError("500", explanation="no space left on device"),
        docker.errors.NotFound("404", explanation="no such container"),
        docker.errors.StreamParseError("half a line"),
        requests.ConnectionError("aborted"),
        requests.ReadTimeout("60"),
        urllib3.exceptions.ProtocolError("broken"),
    ]
    for error in foreign:
        with (
            pytest.raises(EngineUnavailable, match="Docker could not start pi-1: "),
            daemon_errors("start pi-1"),
        ):
            raise error


def test_our_own_errors_pass_the_edge() -> None:
    """An error of ours is not wrapped again."""
    with pytest.raises(ImageError, match="mine"), daemon_errors("start pi-1"):
        raise ImageError("mine")


def test_docker_is_imported_when_it_is_used() -> None:
    """Importing the modules that use the SDK does not import it: it costs a quarter of a second."""
    modules = "containers.daemon engines.docker containers.running containers.build containers.registry"
    code = f"""
import importlib, sys
for name in {modules.split()!r}:
    importlib.import_module("pytest_pidoc." + name)
print([name for name in ("docker", "requests", "urllib3") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
