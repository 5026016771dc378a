"""Small real things that several tests need: servers on sockets, an image of a few bytes, child processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import paramiko
import pytest
from paramiko.common import MSG_CHANNEL_REQUEST, cMSG_CHANNEL_REQUEST

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.images.store.image import MANIFEST, Image, ImageFile, Manifest
from pytest_pidoc.machines import MODELS, Machine
from pytest_pidoc.node import Node
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.bringup import Bringup
from pytest_pidoc.vm.vm import Vm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_pidoc.guest.identity import Identity

#: The command ``pidoc``, wherever this Python has its programs.
PIDOC = (sys.executable, "-c", "import sys; from pytest_pidoc.cli import main; sys.exit(main())")

LAN_NAMES = ("pi-1", "pi-2", "pi-3", "pi-4")


def eventually(condition: Callable[[], object], *, timeout: float = 10) -> bool:
    """Tell whether *condition* came true within *timeout* seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Steps(Progress):
    """A progress that keeps what it hears in ``texts``."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)


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
def forbidden_socket(path: Path) -> Iterator[None]:
    """Serve a unix socket that this user may not open; root is another user meanwhile."""
    user = os.geteuid()
    with unix_server(path, lambda connection: None):
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)


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
    key = paramiko.ECDSAKey.generate()
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


def node_of(
    launch: Launch, engine: Any, endpoint: Endpoint, *, identity: Identity | None = None, host_keys: Sequence[str] = ()
) -> Node:
    """Return the node of a machine that runs at *endpoint*."""
    vm = Vm(launch, engine, endpoint, host_keys=host_keys)
    return Node(vm, Bringup(vm, identity=identity))


@contextlib.contextmanager
def served_node(server: SshServer, directory: Path, *, engine: StandInEngine, **changes: Any) -> Iterator[Node]:
    """Give a node pi-1 whose guest is that SSH server, and close it with the block; *changes* are of its launch."""
    launch = make_launch(directory / "pi-1", server.image, **changes)
    endpoint = Endpoint("local", "127.0.0.1", server.port, launch.directory, "1:2:3")
    with contextlib.closing(node_of(launch, engine, endpoint, host_keys=[server.public_key])) as node:
        yield node


def vm_of(node: Node) -> Vm:
    """Return the machine behind a node, for tests that look below what a user holds."""
    return node._vm


def require_machine(row: Machine) -> None:
    """Skip the test where there is no QEMU that has the machine of that model."""
    if shutil.which(row.binary) is None:
        pytest.skip(f"{row.binary} is not installed")
    if LocalEngine().qemu_version(row.binary).numbers < row.least_qemu:
        pytest.skip(f"{row.name} needs QEMU {'.'.join(map(str, row.least_qemu))}")


class StandInEngine:
    """An engine whose nodes are started and ended by the test: ``reason`` is how they died."""

    name = "local"

    def __init__(self) -> None:
        self.reason: str | None = None
        self.stopped: list[Endpoint] = []
        self.cpus: float | None = None

    def death(self, endpoint: Endpoint) -> str | None:
        return self.reason

    def limit_cpus(self, endpoint: Endpoint, cpus: float | None) -> float | None:
        before, self.cpus = self.cpus, cpus
        return before

    def stop(self, endpoint: Endpoint) -> None:
        self.stopped.append(endpoint)
        self.reason = "it was stopped"


class _Sftp(paramiko.SFTPServerInterface):
    """Files of one directory, which is the home of the server's user."""

    def __init__(self, server: _Session) -> None:
        super().__init__(server)
        self._home = server.home

    def _local(self, path: str) -> Path:
        return self._home / path.lstrip("/")

    def canonicalize(self, path: str) -> str:
        return "/" + os.path.normpath(path).lstrip("./")

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(self._local(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    lstat = stat

    def chattr(self, path: str, attributes: paramiko.SFTPAttributes) -> int:
        paramiko.SFTPServer.set_file_attr(str(self._local(path)), attributes)
        return paramiko.SFTP_OK

    def open(self, path: str, flags: int, attributes: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        try:
            new = flags & os.O_CREAT and not self._local(path).exists()
            stream = self._local(path).open("w+b" if new else "r+b", buffering=0)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        if flags & os.O_TRUNC:
            stream.truncate(0)
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = stream
        return handle


class _Session(paramiko.ServerInterface):
    """One connection: who has the key may run commands."""

    def __init__(self, server: SshServer) -> None:
        self.home = server.home
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "pi" and key == self._server.client_key
        return paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, number: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._server.run, args=(channel, command.decode()), daemon=True).start()
        return True

    def check_channel_pty_request(self, *_: object) -> bool:
        return True  # though the command gets none

    def check_channel_direct_tcpip_request(
        self, number: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        self._server.wanted.append(destination)
        try:
            target = socket.create_connection(("127.0.0.1", destination[1]), timeout=5)
        except OSError:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        threading.Thread(target=self._server.join, args=(number, target), daemon=True).start()
        return paramiko.OPEN_SUCCEEDED


def _copy(stream: IO[bytes], send: Callable[[bytes], object]) -> None:
    """Send what a process prints when it prints it, as sshd does."""
    while data := os.read(stream.fileno(), 1 << 16):
        with contextlib.suppress(OSError, EOFError):
            send(data)


def _feed(channel: paramiko.Channel, stream: IO[bytes]) -> None:
    """Give a process what the client sends, and the end of that."""
    with contextlib.suppress(OSError, ValueError), stream:
        while data := channel.recv(1 << 16):
            stream.write(data)
            stream.flush()


def send_exit_signal(channel: paramiko.Channel, name: str) -> None:
    """Tell that a command was ended by a signal, as sshd does (RFC 4254, 6.10)."""
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exit-signal")
    message.add_boolean(False)
    message.add_string(name)
    message.add_boolean(False)
    message.add_string("")
    message.add_string("")
    channel.transport._send_user_message(message)


class SshServer:
    """A real SSH server on 127.0.0.1 whose commands are run by this machine's shell in *home*.

    Whatever host a forward leads to, it ends at that port of this machine; *wanted* has what was asked for.

    ``sudo`` there says whom it was asked to be, and runs the command as who it is. *die* is called for the
    command ``die``, whose status never comes.
    """

    def __init__(self, home: Path, *, client_key: paramiko.PKey) -> None:
        self.home = home
        self.client_key = client_key
        self.host_key = paramiko.ECDSAKey.generate()
        self.connections = 0
        self.die: Callable[[], None] = lambda: None
        self.wanted: list[tuple[str, int]] = []
        self._transports: list[paramiko.Transport] = []
        self._running: dict[paramiko.Channel, subprocess.Popen[bytes]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        home.mkdir(parents=True)
        sudo = home / "bin" / "sudo"
        sudo.parent.mkdir()
        sudo.write_text(
            '#!/bin/sh\nwho=root\nwhile :; do case "$1" in -S|-H|-n|--preserve-env=*) shift;; -p) shift 2;;'
            ' -u) who="$2"; shift 2;; *) break;; esac; done\necho "as $who:"\nexec "$@"\n'
        )
        sudo.chmod(0o755)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def public_key(self) -> str:
        """The host key as an image's manifest has it."""
        return f"{self.host_key.get_name()} {self.host_key.get_base64()}"

    def run(self, channel: paramiko.Channel, command: str) -> None:
        """Run a command and send what it prints, and its status."""
        # The answer to this is read after the client was told that its command is accepted: nothing of the command's
        # own may overtake that.
        channel.get_transport().global_request("has-it-been-accepted", wait=True)
        if command == "die":
            self.die()
            return
        path = f"{self.home / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(self.home), "USER": "pi"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = {"cwd": self.home, "env": environment, "start_new_session": True, **pipes}
        with subprocess.Popen(["sh", "-c", command], **options) as process:
            self._running[channel] = process
            threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True).start()
            errors = threading.Thread(target=_copy, args=(process.stderr, channel.sendall_stderr))
            errors.start()
            _copy(process.stdout, channel.sendall)
            errors.join()
        status = process.returncode
        with contextlib.suppress(OSError, EOFError):
            if status < 0:
                send_exit_signal(channel, signal.Signals(-status).name.removeprefix("SIG"))
            else:
                channel.send_exit_status(status)
            channel.close()

    def signal(self, channel: paramiko.Channel, name: str) -> None:
        """Send a signal to the processes of a channel's command, as sshd does (RFC 4254, 6.9)."""
        if eventually(lambda: channel in self._running) and self._running[channel].poll() is None:
            os.killpg(self._running[channel].pid, signal.Signals[f"SIG{name}"])

    def join(self, number: int, target: socket.socket) -> None:
        """Connect the channel with that number to a socket, in both directions."""
        transport = self._transports[-1]
        while (channel := transport.accept(10)).get_id() != number:
            pass

        def back() -> None:
            with contextlib.suppress(OSError, EOFError):
                while data := target.recv(4096):
                    channel.sendall(data)
                channel.close()

        with target:
            thread = threading.Thread(target=back)
            thread.start()
            with contextlib.suppress(OSError, EOFError):
                while data := channel.recv(4096):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            thread.join(10)

    def when(self, name: str, then: Callable[[], None]) -> None:
        """Do something as soon as a command has made the file *name*."""
        threading.Thread(target=lambda: eventually((self.home / name).exists) and then(), daemon=True).start()

    def hang_up(self) -> None:
        """Close every connection, as a node does whose power was cut."""
        for transport in self._transports:
            transport.close()

    def close(self) -> None:
        """End the server."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        self.hang_up()
        for transport in self._transports:
            transport.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            transport = paramiko.Transport(connection)
            self._transports.append(transport)
            self._hear_signals(transport)
            transport.add_server_key(self.host_key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Sftp)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(event=threading.Event(), server=_Session(self))

    def _hear_signals(self, transport: paramiko.Transport) -> None:
        """Let the transport take the message ``signal``, which paramiko drops."""
        usual = transport._channel_handler_table[MSG_CHANNEL_REQUEST]

        def handle(channel: paramiko.Channel, message: paramiko.Message) -> None:
            copy = paramiko.Message(message.get_remainder())
            if copy.get_text() == "signal":
                copy.get_boolean()
                self.signal(channel, copy.get_text())
            usual(channel, message)

        transport._channel_handler_table = {**transport._channel_handler_table, MSG_CHANNEL_REQUEST: handle}
