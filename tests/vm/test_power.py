"""A node that is off, dead, hung or panicked: what is said about it, and that its faults are undone once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support import SshServer, StandInEngine, make_launch, node_of, qmp_peer, unix_server, vm_of

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.errors import FaultError, KernelPanic, NodeDied, NodeRestarted, WaitTimeout
from pytest_pidoc.guest.identity import Identity
from pytest_pidoc.lifecycle.attempt import Member, Started
from pytest_pidoc.node import Node
from pytest_pidoc.qemu.command import mac_address
from pytest_pidoc.values.files import QMP_SOCKET, SERIAL_LOG
from pytest_pidoc.vm.vm import Vm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_pidoc.qemu.launch import Launch

PANIC = b"[    9.1] Kernel panic - not syncing: sysrq triggered crash\r\n"


class Engine(StandInEngine):
    """It starts nodes too: each where it was, under another handle; *fails* ends a start."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Launch] = []
        self.fails = False

    def start(self, launch: Launch) -> Endpoint:
        self.started.append(launch)
        if self.fails:
            raise NodeDied("pi-1 died at once: QEMU ended with status 1.")
        self.reason = None
        return Endpoint("local", "127.0.0.1", launch.port or 0, launch.directory, f"{len(self.started)}:2:3")

    def run_qemu(self, binary: str, arguments: list[str], *, timeout: float, directory: Path | None = None) -> None:
        """Nothing takes no time: a fast host."""


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def node(short_path: Path, engine: Engine, server: SshServer) -> Iterator[Node]:
    """Give a node that another process sees, too: a record of its cluster is there."""
    launch = make_launch(short_path / "pi-1", server.image)
    (launch.directory / SERIAL_LOG).write_bytes(b"[  OK  ] Started everything\r\npi-1 login: ")
    (short_path / "cluster.json").write_text('{"engine": "local", "owner": null, "nodes": [{"name": "pi-1"}]}')
    endpoint = Endpoint("local", "127.0.0.1", server.port, launch.directory, "1:2:3")
    identity = Identity.new("pi-1", mac_address(launch))
    with contextlib.closing(
        node_of(launch, engine, endpoint, identity=identity, host_keys=[server.public_key])
    ) as node:
        yield node
        vm_of(node).stop()


@contextlib.contextmanager
def qemu(node: Node, **answers: Any) -> Iterator[list[str]]:
    """Answer for the node's QEMU, and give the commands that it is sent."""
    requests: list[dict[str, Any]] = []
    commands: list[str] = []
    with unix_server(node.directory / QMP_SOCKET, qmp_peer({"stop": {}, "cont": {}, **answers}, requests=requests)):
        yield commands
        commands += [request["execute"] for request in requests if request["execute"] != "qmp_capabilities"]


def test_a_node_without_power_says_since_when(node: Node, engine: Engine) -> None:
    """Whatever needs it says what was done to it and what helps, and not that it died."""
    node.power_cut()

    for use in (lambda: node.run("true"), lambda: node.connection, lambda: node.console, lambda: node.monitor):
        with pytest.raises(
            NodeDied, match=r"^pi-1 is off since power_cut\(\) at \d\d:\d\d:\d\d\.\nTry: call power_on\(\)"
        ):
            use()
    assert engine.stopped
    assert "down" in repr(node)


def test_the_port_of_a_node_without_power_is_kept(node: Node) -> None:
    """Nobody else gets it, and who connects is refused at once."""
    vm_of(node).endpoint = replace(vm_of(node).endpoint, port=_free_port())
    node.power_cut()

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", node.port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.port))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize(
    ("method", "consequence"),
    [
        ("power_cut", "its power cannot be cut"),
        ("shutdown", "it cannot be shut down"),
        ("reboot", "it cannot be rebooted"),
        ("pause", "it cannot be paused"),
        ("resume", "it cannot be resumed"),
    ],
)
def test_what_takes_a_node_that_is_on(node: Node, engine: Engine, method: str, consequence: str) -> None:
    """Of one that is off it says so, and of one that died how, with its last lines."""
    engine.reason = "QEMU was killed by signal 9"
    with pytest.raises(FaultError, match=f"pi-1 has died .QEMU was killed by signal 9., so {consequence}") as caught:
        getattr(node, method)()
    assert "login:" in caught.value.evidence

    engine.reason = None
    node.power_cut()
    with pytest.raises(FaultError, match=rf"pi-1 is off since power_cut\(\) at .*, so {consequence}"):
        getattr(node, method)()


def test_a_paused_node_goes_on_at_the_end(node: Node) -> None:
    """By the block or by hand; not twice."""
    with qemu(node) as commands:
        with node.pause() as hang:
            assert str(hang).endswith("pi-1 hangs, not undone")
        node.resume()
        node.pause()
        node.resume()
        assert node.faults.undo_all() == []

    assert commands == ["stop", "cont", "stop", "cont"]


@pytest.mark.parametrize("method", ["pause", "reboot", "shutdown"])
def test_what_takes_a_node_that_moves(node: Node, method: str) -> None:
    """A paused one could not answer."""
    with qemu(node):
        node.pause()
        with pytest.raises(
            FaultError, match=r"pi-1 is (already paused|paused, so it cannot be .*)\.\nTry: call resume\(\)"
        ):
            getattr(node, method)()


def test_there_is_nothing_to_undo_on_a_node_that_died(node: Node, engine: Engine) -> None:
    """No error, and no attempt."""
    with qemu(node) as commands:
        node.pause()
        engine.reason = "QEMU was killed by signal 9"
        assert node.faults.undo_all() == []

    assert commands == ["stop"]


def test_a_node_that_cannot_be_started_again_is_off(node: Node, engine: Engine) -> None:
    """Its fault lasts, so that the cluster is given up; it was to boot from its disk, at its port."""
    engine.fails = True
    port = node.port
    node.power_cut()

    (error,) = node.faults.undo_all()

    assert isinstance(error, NodeDied)
    assert node.faults.all()[0].active
    assert [(launch.booted, launch.port) for launch in engine.started] == [(True, port)]
    with pytest.raises(NodeDied, match=r"pi-1 is off since power_on\(\) failed at"):
        node.run("true")


def test_power_on_of_a_node_that_runs_does_nothing(node: Node, engine: Engine) -> None:
    node.power_on()

    assert engine.started == []


def test_shutdown_waits_for_the_end(node: Node, engine: Engine, server: SshServer) -> None:
    """The guest is asked in order; that QEMU has ended is not taken for a death."""
    systemctl = server.home / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" > {server.home}/asked\n')
    systemctl.chmod(0o755)
    _let_sudo_be(server)
    engine.death = lambda endpoint: "QEMU ended" if (server.home / "asked").exists() else None  # type: ignore[method-assign]

    fault = node.shutdown(timeout=10)

    assert (server.home / "asked").read_text() == "poweroff\n"
    assert "shutdown of pi-1" in str(fault)
    with pytest.raises(NodeDied, match=r"^pi-1 is off since shutdown\(\) at"):
        node.run("true")


def test_shutdown_that_takes_too_long_says_so(node: Node, server: SshServer) -> None:
    """The node is not off, and the error has its last lines."""
    (server.home / "bin" / "systemctl").symlink_to("/bin/true")
    _let_sudo_be(server)

    with pytest.raises(WaitTimeout, match="pi-1 has not shut down within 1 s") as caught:
        node.shutdown(timeout=1)

    assert "login:" in caught.value.evidence
    assert "timeout=2" in caught.value.tip
    assert node.run("echo on").stdout == "on\n"


def test_board_that_cannot_end_its_own_power_is_ended(node: Node, engine: Engine, server: SshServer) -> None:
    """Its kernel has said its last words."""
    systemctl = server.home / "bin" / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho '[   99.1] reboot: System halted' >> {node.directory / SERIAL_LOG}\n")
    systemctl.chmod(0o755)
    _let_sudo_be(server)

    node.shutdown(timeout=10)

    assert engine.stopped


def test_refusal_to_shut_down_is_told(node: Node, server: SshServer) -> None:
    systemctl = server.home / "bin" / "systemctl"
    systemctl.write_text("#!/bin/sh\necho 'Interactive authentication required.' >&2; exit 1\n")
    systemctl.chmod(0o755)
    _let_sudo_be(server)

    with pytest.raises(FaultError, match=r"pi-1 refused 'sudo -n systemctl poweroff'.\n    Interactive"):
        node.shutdown(timeout=5)


def _let_sudo_be(server: SshServer) -> None:
    """Let the server's sudo run its command as who it is."""
    (server.home / "bin" / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')


def test_kernel_that_gives_up_ends_the_command(node: Node) -> None:
    """A command that would never end does, with the kernel's words."""
    log = node.directory / SERIAL_LOG

    with pytest.raises(KernelPanic, match="The kernel of pi-1 gave up: Kernel panic - not syncing: sysrq"):
        node.run(f"echo '{PANIC.decode().strip()}' >> {log}; sleep 5")
    with pytest.raises(KernelPanic):
        node.run("true")


def test_kernel_that_has_started_again_has_not_given_up(node: Node) -> None:
    with (node.directory / SERIAL_LOG).open("ab") as log:
        log.write(PANIC + b"[    0.0] Booting Linux on physical CPU 0x0000000000 [0x410fd034]\r\n")

    assert node.run("echo here").stdout == "here\n"


def reset(node: Node, reason: str = "guest-reset") -> None:
    """Write what QEMU writes when its machine is reset."""
    event = {"timestamp": {"seconds": 1700000000, "microseconds": 5}, "event": "RESET", "data": {"reason": reason}}
    with (node.directory / "events.out").open("a") as stream:
        stream.write(json.dumps(event) + "\n")


def test_kernel_that_was_restarted_has_not_given_up(node: Node) -> None:
    """Its console may be quiet: QEMU knows."""
    with (node.directory / SERIAL_LOG).open("ab") as log:
        log.write(PANIC)
    assert "sysrq triggered crash" in node.state

    reset(node)

    assert node.state == "up"


def test_panic_of_an_earlier_boot_is_none_for_another_process(node: Node, engine: Engine) -> None:
    """It reads the same serial log, and knows where the last boot begins."""
    with (node.directory / SERIAL_LOG).open("ab") as log:
        log.write(PANIC)
    vm = vm_of(node)
    vm.relaunch(booted=True)
    with vm.coming_up():
        node.run("true")

    assert Vm(vm.launch, engine, vm.endpoint).panicked() is None


def test_command_ends_when_the_guest_restarts(node: Node) -> None:
    """It would wait for ever: nothing tells the connection."""
    threading.Timer(1, reset, (node, "host-qmp-system-reset")).start()

    with pytest.raises(
        NodeRestarted,
        match=r"pi-1 restarted at [\d:]+ by a command of QEMU.s monitor, before a command",
    ):
        node.run("sleep 60")


def test_cluster_waits_for_the_engine_to_notice_a_death(node: Node, engine: Engine, server: SshServer) -> None:
    """A node whose connection breaks is looked after for a second, as by ``Node.run``; with ``warn=True``, too."""
    cluster = Cluster(Started(node.directory.parent, None, None, (Member(node, vm_of(node)),)))  # type: ignore[arg-type]
    answers = iter([None, None, None])
    engine.death = lambda endpoint: next(answers, "QEMU was killed by signal 9")  # type: ignore[method-assign]

    server.die = server.hang_up
    with pytest.raises(NodeDied, match="pi-1 died while it ran 'die': QEMU was killed by signal 9"):
        cluster.run("die", warn=True)


def test_cluster_names_the_kernel_that_gives_up(node: Node) -> None:
    """A command on all nodes ends with the panic of one."""
    cluster = Cluster(Started(node.directory.parent, None, None, (Member(node, vm_of(node)),)))  # type: ignore[arg-type]
    log = node.directory / SERIAL_LOG

    with pytest.raises(KernelPanic, match="The kernel of pi-1 gave up"):
        cluster.run(f"echo '{PANIC.decode().strip()}' >> {log}; sleep 5")
