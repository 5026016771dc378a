"""A node, against a real SSH server in this process, and an engine that says what the test wants of its life."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import paramiko
import pytest
from fabric.runners import Remote
from invoke import Responder
from invoke.exceptions import CommandTimedOut, UnexpectedExit
from paramiko.common import MSG_IGNORE
from support import (
    SshServer,
    StandInEngine,
    eventually,
    make_image,
    make_launch,
    node_of,
    qmp_peer,
    tcp_server,
    unix_server,
    vm_of,
)

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.errors import BootError, BootTimeout, ConsoleError, KernelPanic, MonitorError, NodeDied
from pytest_pidoc.guest.ssh import LOG
from pytest_pidoc.node import Node
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import CONSOLE_SOCKET, QMP_SOCKET, SERIAL_LOG
from pytest_pidoc.vm.bringup import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_pidoc.images.store.image import Image


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image")


@pytest.fixture
def server(tmp_path: Path, image: Image) -> Iterator[SshServer]:
    key = paramiko.ECDSAKey.from_private_key_file(str(image.file("private_key")))
    with contextlib.closing(SshServer(tmp_path / "home", client_key=key)) as running:
        yield running


def make_node(directory: Path, image: Image, engine: StandInEngine, port: int, host_key: str) -> Node:
    """Return a node that is not known to be ready, behind a port of this host."""
    pinned = dataclasses.replace(image, manifest=dataclasses.replace(image.manifest, host_keys=(host_key,)))
    launch = make_launch(directory, pinned)
    (directory / SERIAL_LOG).write_bytes(b"[  OK  ] Started everything\r\npi-1 login: ")
    return node_of(launch, engine, Endpoint("local", "127.0.0.1", port, directory, "1:2:3"))


@pytest.fixture
def starting(short_path: Path, image: Image, engine: StandInEngine, server: SshServer) -> Iterator[Node]:
    """Give a node whose SSH server runs, and to which nobody has connected."""
    node = make_node(short_path / "pi-1", image, engine, server.port, server.public_key)
    with contextlib.closing(node):
        yield node


def wait(node: Node, *, timeout: float = 30, cancelled: bool = False) -> None:
    node._bringup.await_ready(began=time.monotonic(), deadline=Deadline(timeout), cancelled=lambda: cancelled)


@pytest.fixture
def node(starting: Node) -> Node:
    wait(starting)
    return starting


def test_ready_node_is_open_already(node: Node, server: SshServer) -> None:
    """The connection on which the banner was awaited is the one that commands use."""
    node.run("true")

    assert server.connections == 1
    assert node.connection.is_connected


def test_run_returns_what_the_command_printed(node: Node) -> None:
    """Output, errors and status are Fabric's."""
    result = node.run("echo out; echo err >&2")

    assert (result.stdout, result.stderr, result.exited, result.ok) == ("out\n", "err\n", 0, True)


def test_run_echoes_nothing(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    """A test's own output is not mixed with that of commands, unless it asks."""
    node.run("echo quiet")
    node.run("echo loud", hide=False)

    assert capfd.readouterr().out == "loud\n"


def test_command_that_fails_is_fabrics_error(node: Node) -> None:
    """What the user ran and failed is not the node's failure."""
    with pytest.raises(UnexpectedExit) as caught:
        node.run("echo reason >&2; exit 3")

    assert caught.value.result.exited == 3
    assert "reason" in str(caught.value)


def test_command_that_may_fail(node: Node) -> None:
    """With ``warn=True`` the result has the status."""
    assert node.run("exit 3", warn=True).exited == 3


@pytest.mark.parametrize("name", ["ILL", "SEGV", "KILL"])
def test_command_that_a_signal_ends_is_reported_as_such(node: Node, name: str) -> None:
    """An instruction that the CPU lacks is told as a shell would: by its status and in words."""
    number = getattr(signal, f"SIG{name}")

    result = node.run(f"exec sh -c 'echo so far; kill -{name} $$'", warn=True)

    assert (result.exited, result.stdout) == (128 + number, "so far\n")
    assert result.stderr == f"{signal.strsignal(number)}\n"


class _Answer(Responder):
    """Answers the one question of a program that asks."""

    def __init__(self) -> None:
        super().__init__("name\\? ", "pi\n")


@pytest.mark.parametrize(
    ("command", "arguments", "stdout"),
    [
        ("echo out", {"hide": "stdout"}, "out\n"),
        ("echo out", {"hide": "both", "echo": True}, "out\n"),
        ("echo out", {"hide": None, "echo": True, "echo_format": "> {command}"}, "out\n"),
        ("echo out; exit 3", {"warn": True}, "out\n"),
        ("echo out", {"pty": True, "fallback": False}, "out\n"),
        ("echo $NAME", {"env": {"NAME": "value"}}, "value\n"),
        ("echo $NAME", {"env": {"NAME": "value"}, "replace_env": True}, "value\n"),
        ("echo out", {"shell": "/bin/bash"}, "out\n"),
        ("echo out", {"timeout": 60}, "out\n"),
        (r"printf '\344\n'", {"encoding": "latin-1"}, "ä\n"),
        ("cat", {"in_stream": io.StringIO("typed")}, "typed"),
        ("printf 'name? '; read name; echo $name", {"watchers": [_Answer()]}, "name? pi\n"),
        ("echo out >made; exit 1", {"dry": True}, ""),
        ("echo out", {"asynchronous": False, "disown": False}, "out\n"),
        ("echo out", {"out_stream": io.StringIO(), "err_stream": io.StringIO(), "hide": False}, "out\n"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", ["run", "sudo"])
def test_fabrics_arguments(node: Node, name: str, command: str, arguments: dict[str, Any], stdout: str) -> None:
    """All arguments of Fabric do what they do there, as root too."""
    if "in_stream" in arguments:
        arguments["in_stream"].seek(0)
    if name == "run":
        assert node.run(command, **arguments).stdout == stdout
    else:
        expected = f"as root:\n{stdout}" if "dry" not in arguments else ""
        assert node.sudo(f"sh -c {shlex.quote(command)}", **arguments).stdout.replace("\r\n", "\n") == expected


def test_disowned_command(node: Node, server: SshServer) -> None:
    """It has no result, and nobody waits for it."""
    assert node.run("while ! test -e enough; do sleep 0.01; done; touch done", disown=True) is None
    node.run("touch enough")

    assert eventually((server.home / "done").exists)


def test_unknown_argument_is_an_error_as_everywhere(node: Node) -> None:
    """A misspelt one is not dropped."""
    with pytest.raises(TypeError, match="timeuot"):
        node.run("true", timeuot=3)


@pytest.mark.parametrize("name", ["run", "sudo"])
def test_promise_of_a_result(node: Node, name: str) -> None:
    """The test goes on while the command runs, and gets its result when it asks."""
    promise = getattr(node, name)("sh -c 'while ! test -e enough; do sleep 0.01; done; echo out'", asynchronous=True)
    assert "enough" in repr(promise)
    node.run("touch enough")

    assert promise.join().stdout.endswith("out\n")


def test_promise_of_a_command_that_fails(node: Node) -> None:
    """The errors are those of a command that was waited for."""
    with pytest.raises(UnexpectedExit), node.run("exit 3", asynchronous=True):
        pass
    with pytest.raises(CommandTimedOut):
        node.run("sleep 600", asynchronous=True, timeout=0.2).join()
    assert node.run("exit 3", asynchronous=True, warn=True).join().exited == 3


@pytest.mark.parametrize("warn", [False, True])
def test_promise_of_a_node_that_dies(node: Node, engine: StandInEngine, server: SshServer, *, warn: bool) -> None:
    """It is said to have died while the command ran."""
    promise = node.run("sleep 600", asynchronous=True, warn=warn)
    engine.reason = "QEMU was killed by signal 9"
    server.hang_up()
    with pytest.raises(NodeDied, match="pi-1 died while it ran 'sleep 600': QEMU was killed by signal 9"):
        promise.join()


def test_promise_that_is_interrupted(node: Node, server: SshServer) -> None:
    """Its command is ended, too."""
    pid = server.home / "pid"
    promise = node.run(WAITING, asynchronous=True)
    with interrupted(TimeIsUp, when=pid.exists), pytest.raises(TimeIsUp):
        promise.join()

    assert ends(int(pid.read_text()))


def test_sudo_runs_as_root(node: Node) -> None:
    """Sudo is Fabric's: it asks to be root."""
    assert node.sudo("echo done").stdout == "as root:\ndone\n"


def test_sudo_runs_as_another_user(node: Node) -> None:
    """Sudo takes the user's name."""
    assert node.sudo("echo done", user="nobody").stdout == "as nobody:\ndone\n"


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_put_copies_a_file_to_the_node(node: Node, server: SshServer, tmp_path: Path, kind: type) -> None:
    """A file is named by a text or a Path."""
    (tmp_path / "local").write_bytes(b"\0content\xff")
    node.put(kind(tmp_path / "local"), "remote")

    assert (server.home / "remote").read_bytes() == b"\0content\xff"


def test_put_takes_a_file_object(node: Node, server: SshServer) -> None:
    """What is in memory need not be written first."""
    node.put(io.BytesIO(b"content"), "remote")

    assert (server.home / "remote").read_bytes() == b"content"


def test_put_keeps_the_mode(node: Node, server: SshServer, tmp_path: Path) -> None:
    """A program stays executable."""
    (tmp_path / "program").write_text("#!/bin/sh\necho it runs\n")
    (tmp_path / "program").chmod(0o755)
    node.put(tmp_path / "program", "program")

    assert node.run("./program").stdout == "it runs\n"


def test_put_of_nothing_is_the_usual_error(node: Node, tmp_path: Path) -> None:
    """A file that is not there is a FileNotFoundError, as everywhere."""
    with pytest.raises(FileNotFoundError):
        node.put(tmp_path / "nothing", "remote")


def test_get_copies_a_file_from_the_node(node: Node, server: SshServer, tmp_path: Path) -> None:
    """The place here may be a Path."""
    (server.home / "remote").write_bytes(b"\0content\xff")
    node.get("remote", tmp_path / "local")

    assert (tmp_path / "local").read_bytes() == b"\0content\xff"


def test_get_of_nothing_is_the_usual_error(node: Node, tmp_path: Path) -> None:
    """A file that is not on the node is a FileNotFoundError too."""
    with pytest.raises(FileNotFoundError):
        node.get("nothing", tmp_path / "local")


def test_timings_grow(node: Node) -> None:
    """A node is launched, then shows its banner, then is ready."""
    assert 0 <= node.timings.launched <= node.timings.banner <= node.timings.ready
    assert node.timings.start == "cold"


def test_timings_before_ready(starting: Node) -> None:
    """There are none before the node is ready."""
    with pytest.raises(BootError, match="pi-1 is not ready yet"):
        _ = starting.timings


def test_wrong_host_key_is_refused(short_path: Path, image: Image, engine: StandInEngine, server: SshServer) -> None:
    """Who answers with another key than the image's is not the node, and the error says so."""
    other = paramiko.ECDSAKey.generate()
    impostor = make_node(short_path / "pi-1", image, engine, server.port, f"{other.get_name()} {other.get_base64()}")
    with contextlib.closing(impostor), pytest.raises(BootError, match="another host key than its image"):
        wait(impostor)


def test_wrong_host_key_is_refused_on_every_connection(
    short_path: Path, image: Image, engine: StandInEngine, server: SshServer
) -> None:
    """The key is pinned also where a node is found by another process."""
    other = paramiko.ECDSAKey.generate()
    impostor = make_node(short_path / "pi-1", image, engine, server.port, f"{other.get_name()} {other.get_base64()}")
    with contextlib.closing(impostor), pytest.raises(paramiko.BadHostKeyException):
        impostor.run("true")


def test_unknown_host_key_is_refused(short_path: Path, image: Image, engine: StandInEngine, server: SshServer) -> None:
    """An image without a host key does not mean that every key is right."""
    key = paramiko.ECDSAKey.generate(bits=521)
    node = make_node(short_path / "pi-1", image, engine, server.port, f"{key.get_name()} {key.get_base64()}")
    with contextlib.closing(node), pytest.raises(paramiko.SSHException):
        node.run("true")


def test_key_that_the_node_does_not_know(starting: Node, server: SshServer) -> None:
    """A login that is refused is an error that says that a first command failed."""
    server.client_key = paramiko.ECDSAKey.generate()
    with pytest.raises(BootError, match=r"pi-1 answers on port \d+, but a first command failed"):
        wait(starting)


def test_users_ssh_configuration_is_not_read(starting: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``Host *`` in somebody's configuration does not lead nodes elsewhere."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  HostName nowhere.invalid\n  Port 1\n  User nobody\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    wait(starting)

    assert starting.run("echo here").stdout == "here\n"


def test_death_in_the_middle_of_a_command(node: Node, engine: StandInEngine, server: SshServer) -> None:
    """A node that dies while a command runs is said to have died, with how, when, and its last lines."""

    def die() -> None:
        engine.reason = "QEMU was killed by signal 9"
        server.hang_up()

    server.die = die
    with pytest.raises(NodeDied, match="pi-1 died while it ran 'die': QEMU was killed by signal 9") as caught:
        node.run("die")

    assert "pi-1 login:" in caught.value.evidence
    assert caught.value.look == str(node.directory / SERIAL_LOG)
    assert caught.value.__cause__ is not None


def test_death_in_the_middle_of_a_command_that_may_fail(node: Node, engine: StandInEngine, server: SshServer) -> None:
    """Who accepts any status has still not accepted the death of the node."""

    def die() -> None:
        engine.reason = "QEMU was killed by signal 9"
        server.hang_up()

    server.die = die
    with pytest.raises(NodeDied):
        node.run("die", warn=True)


def test_command_whose_time_is_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said also where who waits for it goes on before the timer has come to its end."""

    def kill(runner: Remote) -> None:
        runner.channel.close()
        time.sleep(0.5)

    monkeypatch.setattr(Remote, "kill", kill)
    with pytest.raises(CommandTimedOut):
        node.run("sleep 600", timeout=0.3)


class TimeIsUp(BaseException):
    """What pytest-timeout's handler raises, ``Failed``, is no ``Exception``, either."""


@contextlib.contextmanager
def interrupted(error: type[BaseException], *, when: Callable[[], bool]) -> Iterator[None]:
    """Raise an error in a handler of a signal as soon as *when* is true, as Ctrl-C and pytest-timeout do."""

    def handle(number: int, frame: object) -> None:
        if when():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise error

    usual = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def ends(pid: int) -> bool:
    """Tell whether a process ends, or has ended."""
    return eventually(lambda: not alive(pid))


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


WAITING = "echo $$ >pid.new; mv pid.new pid; sleep 600; true"


@pytest.mark.parametrize("error", [TimeIsUp, KeyboardInterrupt])
@pytest.mark.parametrize(
    "wait_for",
    [
        lambda node: node.run(WAITING),
        lambda node: node.run(WAITING, pty=True, env={"A": "1"}),
        lambda node: node.run(f"trap '' TERM; {WAITING}", warn=True),
        lambda node: node.sudo(f"sh -c '{WAITING}'"),
        lambda node: node.wait_until_succeeds(WAITING),
    ],
    ids=["run", "pty", "no-sigterm", "sudo", "wait"],
)
def test_wait_that_is_interrupted(
    node: Node, server: SshServer, wait_for: Callable[[Node], object], error: type[BaseException]
) -> None:
    """The error of the signal's handler ends the wait, and the command is ended on the node; others still run there."""
    pid = server.home / "pid"
    with interrupted(error, when=pid.exists), pytest.raises(error):
        wait_for(node)

    assert ends(int(pid.read_text()))
    assert node.run("echo next").stdout == "next\n"
    assert server.connections == 1


def test_interrupted_wait_for_a_port(node: Node, server: SshServer) -> None:
    """A wait with a loop in the guest ends, too."""
    begun = server.home / "begun"
    (server.home / "bin" / "bash").write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 600\n")
    (server.home / "bin" / "bash").chmod(0o755)
    with interrupted(TimeIsUp, when=begun.exists), pytest.raises(TimeIsUp):
        node.wait_for_port(1)


def test_command_whose_time_is_up_is_ended(node: Node, server: SshServer) -> None:
    """The next test on a node that is shared does not find it."""
    with pytest.raises(CommandTimedOut):
        node.run(WAITING, timeout=1)

    assert ends(int((server.home / "pid").read_text()))


def test_command_that_ends_by_itself_gets_no_signal(
    node: Node, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent for a usual command, and what it left running goes on."""
    signals: list[str] = []
    monkeypatch.setattr(server, "signal", lambda channel, name: signals.append(name))
    node.run("sleep 600 >&- 2>&- & echo $! >pid")
    node.run("kill -TERM $$", warn=True)
    node.run("kill $(cat pid)")

    assert signals == []


def in_child(do: Callable[[], object]) -> object:
    """Return what a function returns in a child process that has inherited everything by fork."""
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=lambda: answers.put(do()))
    child.start()
    child.join(30)
    if child.exitcode is None:
        child.kill()
        child.join()
    assert child.exitcode == 0
    return answers.get()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_inherited_node(node: Node, server: SshServer) -> None:
    """A child process uses the node over a connection of its own, and that of its parent goes on."""
    promise = node.run("while ! test -e enough; do sleep 0.01; done; echo parent", asynchronous=True)

    def use() -> str:
        node.put(io.BytesIO(), "enough")
        node.close()
        return node.run("echo child").stdout

    with vm_of(node).transfers:  # another thread of the parent is in the middle of a copy
        assert in_child(use) == "child\n"

    assert promise.join().stdout == "parent\n"
    assert node.run("echo parent").stdout == "parent\n"
    assert server.connections == 3


def test_death_before_a_command(node: Node, engine: StandInEngine, server: SshServer) -> None:
    """A command for a node that died meanwhile says that it died."""
    server.close()
    engine.reason = "QEMU was killed by signal 9"
    with pytest.raises(NodeDied, match="pi-1 died while it ran 'true'"):
        node.run("true")
    with pytest.raises(NodeDied, match="pi-1 died while it ran 'true; true; ") as caught:
        node.run("true; " * 1000)
    assert len(caught.value.what) < 1000  # not the whole of a script


def test_death_during_a_copy(node: Node, engine: StandInEngine, server: SshServer, tmp_path: Path) -> None:
    """Copies that break with the node are said to have."""
    server.close()
    engine.reason = "QEMU was killed by signal 9"
    with pytest.raises(NodeDied, match="pi-1 died while it sent remote"):
        node.get("remote", tmp_path / "local")


def test_connection_that_breaks_while_the_node_lives(node: Node, server: SshServer) -> None:
    """A broken connection of a live node is not called a death: it stays Fabric's error."""
    server.die = server.hang_up
    with pytest.raises(UnexpectedExit):
        node.run("die")


def break_in_two(server: SshServer) -> None:
    """Send what is no packet, as paramiko sees it when a guest goes away in the middle of one.

    A packet with a wrong checksum is always that; one in sixteen random texts looks like the beginning of a packet.
    """
    for transport in server._transports:
        with contextlib.suppress(OSError, EOFError):  # it has ended
            transport.packetizer._Packetizer__mac_key_out = b"another"
            transport._send_message(paramiko.Message(bytes([MSG_IGNORE])))
            transport.sock.shutdown(socket.SHUT_RDWR)


def test_connection_that_breaks_is_not_logged(node: Node, server: SshServer, caplog: pytest.LogCaptureFixture) -> None:
    """The test gets the exception; paramiko's tracebacks are for who asks for debug messages."""
    server.die = lambda: break_in_two(server)
    for level, logged in ((logging.WARNING, False), (logging.DEBUG, True)):
        caplog.clear()
        with caplog.at_level(level), pytest.raises(UnexpectedExit):
            node.run("die")
        node.close()
        records = [record for record in caplog.records if record.name == LOG]
        assert any("Traceback" in record.message for record in records) == logged
        assert {record.levelno for record in records} <= {logging.DEBUG}


def test_other_connections_of_paramiko_log_as_ever(
    node: Node, server: SshServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A test may use paramiko itself."""
    with contextlib.closing(paramiko.Transport(("127.0.0.1", server.port))) as transport:
        transport.start_client(timeout=30)
        break_in_two(server)
        transport.join(30)

    assert ("paramiko.transport", logging.ERROR) in {(record.name, record.levelno) for record in caplog.records}


def test_connection_can_be_opened_again(node: Node, server: SshServer) -> None:
    """After a broken connection the next command makes a new one."""
    server.hang_up()
    node.close()

    assert node.run("echo again").stdout == "again\n"
    assert server.connections == 2


def test_death_while_starting(starting: Node, engine: StandInEngine) -> None:
    """A node that dies before its banner ends the wait, long before the deadline."""
    engine.reason = "QEMU ended with status 1"
    with tcp_server(lambda connection: connection.recv(1) and None) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(NodeDied, match="pi-1 died: QEMU ended with status 1"):
            wait(starting, timeout=3600)


def test_panic_while_starting(starting: Node) -> None:
    """A kernel that gives up ends the wait, with the line in which it did."""
    (starting.directory / SERIAL_LOG).write_bytes(b"Kernel panic - not syncing: No working init found.\r\n")
    with tcp_server(lambda connection: connection.recv(1) and None) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(KernelPanic, match="gave up: Kernel panic - not syncing: No working init found"):
            wait(starting, timeout=3600)


def test_emergency_mode_while_starting(starting: Node) -> None:
    """A guest that will start no SSH server is not waited for."""
    (starting.directory / SERIAL_LOG).write_bytes(b"You are in emergency mode. After logging in, type\r\n")
    with tcp_server(lambda connection: connection.recv(1) and None) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(
            BootError, match='pi-1 will not start its SSH server: systemd says "You are in emergency mode"'
        ) as caught:
            wait(starting, timeout=3600)

    assert "You are in emergency mode" in caught.value.evidence


def test_boot_that_finds_no_root_device(starting: Node) -> None:
    """A kernel waits for it for ever, and says so long before the log's last lines."""
    (starting.directory / SERIAL_LOG).write_bytes(
        b"Waiting for root device /dev/mmcblk0p2...\r\n" + b"usb 1-1\r\n" * 99
    )
    with tcp_server(lambda connection: connection.recv(1) and None) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(BootTimeout, match=r"after 0\.[67] s: its kernel waits for the root device /dev/mmcblk0p2"):
            wait(starting, timeout=0.6)


def test_cancelled_start(starting: Node) -> None:
    """A start that somebody else gave up ends at its next look."""
    with tcp_server(lambda connection: connection.recv(1) and None) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(BootError, match="The start of pi-1 was cancelled"):
            wait(starting, timeout=3600, cancelled=True)


def test_boot_that_takes_too_long(starting: Node) -> None:
    """The error has the time, the last serial lines and a longer timeout to try."""
    with tcp_server(lambda connection: connection.recv(1) and None) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(BootTimeout, match=r"pi-1 was not ready after 0\.[67] s: its SSH server") as caught:
            wait(starting, timeout=0.6)

    assert "pi-1 login:" in caught.value.evidence
    assert "--pidoc-boot-timeout=1" in caught.value.tip


def test_login_that_takes_too_long(starting: Node) -> None:
    """A server that shows its banner and then nothing is told from one that shows none."""

    def banner_only(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        while connection.recv(1000):
            pass

    with tcp_server(banner_only) as (_, port):
        vm_of(starting).endpoint = dataclasses.replace(vm_of(starting).endpoint, port=port)
        with pytest.raises(BootTimeout, match="it answers, but no command has run"):
            wait(starting, timeout=0.6)


def test_monitor_is_qemus(node: Node) -> None:
    """The monitor is opened on first use, and stays open."""
    with unix_server(node.directory / QMP_SOCKET, qmp_peer({"query-status": {"running": True}})):
        assert node.monitor.execute("query-status") == {"running": True}
        assert node.monitor is node.monitor


def test_monitor_of_a_dead_node(node: Node, engine: StandInEngine) -> None:
    """There is no waiting for the monitor of a node that died."""
    engine.reason = "QEMU was killed by signal 9"
    with pytest.raises(NodeDied):
        _ = node.monitor


def test_monitor_after_its_end(node: Node) -> None:
    """A monitor that was closed by the other side is an error of ours, not a hang."""
    with unix_server(node.directory / QMP_SOCKET, qmp_peer({})):
        monitor = node.monitor
    with pytest.raises(MonitorError, match="is gone"):
        monitor.execute("query-status")


def test_console_is_the_serial_port(node: Node) -> None:
    """The console is opened on first use."""
    with unix_server(node.directory / CONSOLE_SOCKET, lambda connection: connection.sendall(b"pi-1 login: ")):
        node.console.expect("login: ", timeout=10)


def test_console_can_be_opened_again(node: Node) -> None:
    """After it was closed, the next use opens another."""
    with unix_server(node.directory / CONSOLE_SOCKET, lambda connection: connection.sendall(b"pi-1 login: ")):
        with node.console as first:
            first.expect("login: ", timeout=10)
        node.console.expect("login: ", timeout=10)

        assert node.console is not first


def test_console_that_is_not_there(node: Node) -> None:
    """A console that cannot be reached is an error that names the node."""
    with pytest.raises(ConsoleError, match="Cannot connect to the console of pi-1"):
        _ = node.console


def test_console_of_a_dead_node(node: Node, engine: StandInEngine) -> None:
    """A node that died has no console, and the error says why."""
    engine.reason = "QEMU was killed by signal 9"
    with pytest.raises(NodeDied):
        _ = node.console


def test_stop_ends_the_node(node: Node, engine: StandInEngine) -> None:
    """Stop closes the connections and tells the engine."""
    connection = node.connection
    vm_of(node).stop()

    assert engine.stopped == [vm_of(node).endpoint]
    assert not connection.is_connected


def test_closing_twice_is_no_error(node: Node) -> None:
    """Close is idempotent, and leaves the node running."""
    node.close()
    node.close()

    assert vm_of(node).death() is None


@pytest.mark.parametrize("path", ["", "with space"])
def test_ssh_command_opens_a_session(
    short_path: Path, image: Image, engine: StandInEngine, server: SshServer, path: str
) -> None:
    """OpenSSH itself takes the command, the key and the pinned host key, in a directory of any name."""
    node = make_node(short_path / path / "pi-1", image, engine, server.port, server.public_key)
    command = [*shlex.split(node.ssh_command), "echo", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30)

    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_ssh_command_refuses_a_wrong_host_key(
    short_path: Path, image: Image, engine: StandInEngine, server: SshServer
) -> None:
    """OpenSSH does not blindly accept, either."""
    other = paramiko.ECDSAKey.generate()
    node = make_node(short_path / "pi-1", image, engine, server.port, f"{other.get_name()} {other.get_base64()}")
    command = [*shlex.split(node.ssh_command), "echo", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30)

    assert done.returncode == 255
    assert "verification failed" in done.stderr


def test_known_hosts_pins_the_images_key(node: Node, server: SshServer) -> None:
    """The file has one line: this port, this key."""
    assert node.known_hosts.read_text() == f"[127.0.0.1]:{server.port} {server.public_key}\n"


def test_description(starting: Node, engine: StandInEngine, server: SshServer) -> None:
    """A node shows its name, model, address and state."""
    assert repr(starting) == f"<Node pi-1 pi3-virt ssh=127.0.0.1:{server.port} starting>"
    wait(starting)
    assert repr(starting) == f"<Node pi-1 pi3-virt ssh=127.0.0.1:{server.port} up>"
    engine.reason = "QEMU was killed"
    assert repr(starting) == f"<Node pi-1 pi3-virt ssh=127.0.0.1:{server.port} down>"


def test_timings_are_a_value() -> None:
    """Timings can be compared and written down."""
    expected = {"launched": 1, "banner": 2, "ready": 3, "restored": None, "start": "cold"}
    assert dataclasses.asdict(Timings(1, 2, 3)) == expected
