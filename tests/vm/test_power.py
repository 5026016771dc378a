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
    """It starts nodes too: each where it was, under another handle, so the former is gone; *fails* ends a start."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Launch] = []
        self.handle = "1:2:3"
        self.fails = False

    def start(self, launch: Launch) -> Endpoint:
        self.started.append(launch)
        if self.fails:
            raise NodeDied("pi-1 died at once: QEMU ended with status 1.")
        self.reason, self.handle = None, f"{len(self.started) + 1}:2:3"
        return Endpoint("local", "127.0.0.1", launch.port or 0, launch.directory, self.handle)

    def death(self, endpoint: Endpoint) -> str | None:
        return self.reason if endpoint.handle == self.handle else "its QEMU process is gone"

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
    identity.write(launch.directory)
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


@pytest.fixture
def view(node: Node, engine: Engine) -> Iterator[Node]:
    """Give the node as another process sees it."""
    vm = vm_of(node)
    with contextlib.closing(node_of(vm.launch, engine, vm.endpoint, host_keys=vm.host_keys)) as view:
        yield view


def test_another_process_is_told_why_a_node_is_off(node: Node, view: Node) -> None:
    """It says the same as the one that has switched the node off, also of a command that runs."""
    view.run("true")
    node.power_cut()

    assert view.state == node.state
    with pytest.raises(
        NodeDied, match=r"^pi-1 is off since power_cut\(\) at \d\d:\d\d:\d\d\.\nTry: call power_on\(\) to start it"
    ):
        view.run("true")
    with pytest.raises(FaultError, match=r"pi-1 is off since power_cut\(\) at .*, so its power cannot be cut"):
        view.power_cut()


def test_command_is_ended_by_another_process_that_cuts_the_power(node: Node, view: Node, server: SshServer) -> None:
    def die() -> None:
        view.power_cut()
        server.hang_up()

    server.die = die
    with pytest.raises(NodeDied, match=r"^pi-1 is off since power_cut\(\) at"):
        node.run("die")


def test_node_is_on_for_all_processes(node: Node, view: Node, engine: Engine, server: SshServer) -> None:
    """Whoever has switched it off and on; after an orderly shutdown, its disk has its identity already."""
    _let_systemctl_end(engine, server)
    node.shutdown(timeout=10)

    view.power_on()

    assert (node.state, view.state) == ("up", "up")
    assert node.run("echo here").stdout == view.run("echo here").stdout == "here\n"
    assert node.faults.undo_all() == []
    node.power_on()
    assert len(engine.started) == 1
    _let_systemctl_end(engine, server)
    node.shutdown(timeout=10)
    assert view.state == node.state
    node.power_on()
    assert view.state == "up"
    assert view.run("echo here").stdout == "here\n"
    assert vm_of(view).endpoint.handle == engine.handle == "3:2:3"


def test_command_is_ended_by_another_process_that_cuts_the_power_for_a_moment(
    node: Node, view: Node, engine: Engine, server: SshServer
) -> None:
    """The node is up again when that is found out, but what ran there is gone."""

    def die() -> None:
        vm_of(view).end()
        vm_of(view).relaunch(booted=True)
        server.hang_up()

    server.die = die
    with pytest.raises(NodeRestarted, match=r"^pi-1 was switched off and on again while it ran 'die'\."):
        node.run("die")
    assert node.run("echo here").stdout == "here\n"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        "{}",
        '{"by": "power_cut()", "at": "12:03", "clean": false}',
        '{"by": "power_cut()", "at": 1e300, "clean": false}',
        '{"by": "\\u001b[2J()", "at": 1, "clean": false}',
        '{"by": null, "at": 1, "clean": false}',
    ],
)
def test_damaged_note_of_an_outage_is_none(node: Node, note: str) -> None:
    """What a QEMU has written into the node's directory does not get to a terminal."""
    (node.directory / "off").write_text(note)

    assert node.state == "up"


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
    _let_systemctl_end(engine, server)

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


def _let_systemctl_end(engine: Engine, server: SshServer) -> None:
    """Let the guest's ``systemctl`` end its QEMU, and write down what it was asked for."""
    asked, death = server.home / "asked", engine.death
    asked.unlink(missing_ok=True)
    systemctl = server.home / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    systemctl.chmod(0o755)
    _let_sudo_be(server)
    started = len(engine.started)

    def ended(endpoint: Endpoint) -> str | None:
        return "QEMU ended" if asked.exists() and len(engine.started) == started else death(endpoint)

    engine.death = ended  # type: ignore[method-assign]


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
