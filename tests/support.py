"""Small real things that several tests need: servers on sockets, an image of a few bytes, child processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import paramiko

from pytest_pidoc.engines.engine import Endpoint, Launch
from pytest_pidoc.images.image import MANIFEST, Image, ImageFile, Manifest
from pytest_pidoc.machines import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def eventually(condition: Callable[[], object], *, timeout: float = 10) -> bool:
    """Tell whether *condition* came true within *timeout* seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def serving(server: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve every connection to a bound socket with *serve*, one after the other, until the block ends."""
    server.listen()
    current: list[socket.socket] = []

    def loop() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            current[:] = [connection]
            with connection, contextlib.suppress(OSError):
                serve(connection)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        for connection in current:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


@contextlib.contextmanager
def unix_server(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[Path]:
    """Serve the unix socket *path*, however long that is."""
    server = socket.socket(socket.AF_UNIX)
    directory = os.open(path.parent, os.O_PATH)
    server.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)
    with serving(server, serve):
        yield path


@contextlib.contextmanager
def tcp_server(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Serve a port of 127.0.0.1 that the OS chooses, and give its address."""
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    with serving(server, serve):
        yield address


def qmp_peer(
    answers: dict[str, Any], *, greeting: Any = None, requests: list[dict[str, Any]] | None = None
) -> Callable[[socket.socket], None]:
    """Return what speaks QMP as QEMU does.

    *answers* has, by command, what is returned; an answer that is a list of messages is sent as it is, and an
    unknown command is refused. *requests* collects what was asked.
    """
    first = {"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}} if greeting is None else greeting

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rwb", buffering=0) as stream:
            stream.write(json.dumps(first).encode() + b"\r\n")
            for line in stream:
                request = json.loads(line)
                if requests is not None:
                    requests.append(request)
                name = request["execute"]
                refusal = {"error": {"class": "CommandNotFound", "desc": f"The command {name} has not been found"}}
                found = {"qmp_capabilities": {}, **answers}.get(name, refusal)
                messages = found if isinstance(found, list) else [refusal if found is refusal else {"return": found}]
                for message in messages:
                    stream.write(json.dumps(message).encode() + b"\r\n")

    return serve


@contextlib.contextmanager
def child(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real child process (by default one that only waits) and end it with the block."""
    process = subprocess.Popen(
        command or (sys.executable, "-c", "input()"), stdin=subprocess.PIPE, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()


def make_image(directory: Path, *, host_keys: tuple[str, ...] = (), disk: bool = False) -> Image:
    """Make an image of a few bytes that no machine can boot; *disk* makes its disk a real one."""
    directory.mkdir(parents=True)
    key = paramiko.RSAKey.generate(1024)
    key.write_private_key_file(str(directory / "id"))
    for name in ("kernel", "initrd", "disk.qcow2"):
        (directory / name).write_bytes(b"no " + name.encode())
    if disk:
        create = ["qemu-img", "create", "-q", "-f", "qcow2", str(directory / "disk.qcow2"), "1M"]
        subprocess.run(create, check=True)
    roles = {"kernel": "kernel", "initrd": "initrd", "disk": "disk.qcow2", "private_key": "id"}
    files = {
        role: ImageFile(
            name, (directory / name).stat().st_size, hashlib.sha256((directory / name).read_bytes()).hexdigest()
        )
        for role, name in roles.items()
    }
    manifest = Manifest(
        recipe="debian:bookworm",
        architecture="arm64",
        key=hashlib.sha256(repr(files).encode()).hexdigest(),
        files=files,
        user="pi",
        host_keys=host_keys,
        created="2024-01-02T03:04:05+00:00",
    )
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Image(directory, manifest)


def make_launch(directory: Path, image: Image, *, cluster: str = "c-00000000", **changes: Any) -> Launch:
    """Return the launch of a node pi-1 with an empty directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    machine = changes.pop("machine", MODELS["pi3-virt"])
    return Launch("pi-1", cluster, directory, machine, image, memory=changes.pop("memory", machine.memory), **changes)


class StandInEngine:
    """An engine whose nodes are started and ended by the test: ``reason`` is how they died."""

    name = "local"

    def __init__(self) -> None:
        self.reason: str | None = None
        self.stopped: list[Endpoint] = []

    def death(self, endpoint: Endpoint) -> str | None:
        return self.reason

    def stop(self, endpoint: Endpoint) -> None:
        self.stopped.append(endpoint)
        self.reason = "it was stopped"
