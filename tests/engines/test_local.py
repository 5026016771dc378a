"""The engine ``local`` with real QEMU: machines whose kernel is no kernel start in a fraction of a second."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bare_metal
import pytest
from support import eventually, make_image, make_launch, node_of, vm_of

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import EngineUnavailable, MonitorError, NodeDied, SettingsError
from pytest_pidoc.host import processes
from pytest_pidoc.machines import MODELS
from pytest_pidoc.node import Node
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.usernet import forwarded_port
from pytest_pidoc.values.files import OVERLAY, QEMU_LOG, QMP_SOCKET, SCREENSHOT, SERIAL_LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_pidoc.images.store.image import Image
    from pytest_pidoc.qemu.launch import Launch

qemu = pytest.mark.qemu


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("images") / "image", disk=True)


@pytest.fixture
def launch(tmp_path: Path, image: Image) -> Launch:
    return make_launch(tmp_path / "pi-1", image, cluster=f"c-local-{os.getpid()}", memory=64 * 1024**2)


@pytest.fixture
def engine() -> LocalEngine:
    return LocalEngine()


@pytest.fixture
def start(engine: LocalEngine) -> Iterator[Callable[[Launch], Endpoint]]:
    with contextlib.ExitStack() as closing:

        def started(launch: Launch) -> Endpoint:
            endpoint = engine.start(launch)
            closing.callback(engine.stop, endpoint)
            return endpoint

        yield started


@qemu
def test_started_node_lives(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """After the start QEMU runs, and the handle names it."""
    endpoint = start(launch)

    assert engine.death(endpoint) is None
    assert processes.is_alive(endpoint.handle)


@qemu
def test_endpoint_is_data_for_other_processes(start: Any, launch: Launch) -> None:
    """The endpoint says where the node is on this host."""
    endpoint = start(launch)

    assert (endpoint.engine, endpoint.host, endpoint.directory) == ("local", "127.0.0.1", launch.directory)


def board_of(image: Image, tmp_path: Path) -> Launch:
    """Return the launch of a board whose guest is no Linux, and so needs no device tree."""
    row = dataclasses.replace(MODELS["pi3"], tree="")
    return make_launch(tmp_path / "pi-1", image, cluster=f"c-local-{os.getpid()}", machine=row)


@pytest.fixture
def board(start: Any, engine: LocalEngine, tmp_path: Path, image: Image) -> Iterator[Node]:
    """Start a board that has nothing to boot."""
    launch = board_of(image, tmp_path)
    with contextlib.closing(node_of(launch, engine, start(launch))) as node:
        yield node


@qemu
def test_picture_of_a_display(board: Node, tmp_path: Path) -> None:
    """It is a PNG with the size of the board's framebuffer, where it was wanted and nowhere else."""
    path = board.screenshot(tmp_path / "picture.png")

    picture = path.read_bytes()
    assert path == tmp_path / "picture.png"
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack_from(">II", picture, 16) == (640, 480)
    assert not (board.directory / SCREENSHOT).exists()


@qemu
def test_picture_that_cannot_be_written(board: Node, tmp_path: Path) -> None:
    """The error is the one that writing gave, and nothing is left."""
    with pytest.raises(FileNotFoundError):
        board.screenshot(tmp_path / "nowhere" / "picture.png")

    assert not (board.directory / SCREENSHOT).exists()


@qemu
def test_pictures_while_the_guest_changes_its_screen(start: Any, engine: LocalEngine, tmp_path: Path) -> None:
    """Each is one of the sizes that the guest sets, and it goes on with that."""
    flickering = bare_metal.make_image(tmp_path / "image", kernel=bare_metal.FLICKERS)
    launch = board_of(flickering, tmp_path)

    with contextlib.closing(node_of(launch, engine, start(launch))) as node:
        pictures = [node.screenshot(tmp_path / "picture.png").read_bytes() for _ in range(30)]

        assert {struct.unpack_from(">I", picture, 16)[0] for picture in pictures} >= {1920, 896}
        assert node.monitor.execute("query-status")["running"]


@qemu
def test_picture_of_a_board_that_stands_still(board: Node, tmp_path: Path) -> None:
    """It does not go on for that."""
    board.monitor.execute("stop")

    board.screenshot(tmp_path / "picture.png")

    assert not board.monitor.execute("query-status")["running"]


@qemu
def test_machine_that_stood_still_goes_on_after_an_error(board: Node) -> None:
    with pytest.raises(MonitorError, match="refused fly"), board.monitor.stopped():
        board.monitor.execute("fly")

    assert board.monitor.execute("query-status")["running"]


@qemu
def test_picture_of_a_board_that_died(board: Node, engine: LocalEngine, tmp_path: Path) -> None:
    """The error says how it died, not what its monitor did."""
    assert board.monitor.execute("query-status")
    os.kill(int(vm_of(board).endpoint.handle.partition(":")[0]), signal.SIGKILL)
    assert eventually(lambda: engine.death(vm_of(board).endpoint))

    with pytest.raises(NodeDied, match="pi-1 died during a screenshot: QEMU was killed by signal 9"):
        board.screenshot(tmp_path / "picture.png")


@qemu
def test_picture_of_a_machine_without_a_display(start: Any, engine: LocalEngine, launch: Launch) -> None:
    """The error names models that have one."""
    node = node_of(launch, engine, start(launch))

    with pytest.raises(MonitorError, match="Cannot take a screenshot of pi-1: model pi3-virt has no display") as caught:
        node.screenshot("picture.png")

    assert "pi3, pi4" in caught.value.tip
    assert not Path("picture.png").exists()


@qemu
def test_port_is_qemus(start: Any, launch: Launch) -> None:
    """Something listens on the port that the OS chose, on 127.0.0.1 only."""
    endpoint = start(launch)

    socket.create_connection((endpoint.host, endpoint.port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", endpoint.port), timeout=5)


@qemu
def test_two_nodes_have_different_ports(start: Any, launch: Launch, tmp_path: Path) -> None:
    """Nodes on one host do not collide."""
    other = make_launch(tmp_path / "pi-2", launch.image, cluster=launch.cluster, memory=launch.memory)

    assert start(launch).port != start(other).port


@qemu
def test_memory_is_what_was_asked_for(start: Any, launch: Launch) -> None:
    """QEMU has as much RAM for the guest as the launch says."""
    with Monitor.connect(start(launch).directory / QMP_SOCKET) as monitor:
        assert monitor.execute("query-memory-size-summary")["base-memory"] == launch.memory


@qemu
def test_serial_log_is_there_from_the_start(start: Any, launch: Launch) -> None:
    """The file exists as soon as the node does, so that nothing is missed."""
    start(launch)

    assert (launch.directory / SERIAL_LOG).exists()


@qemu
def test_image_is_not_written_to(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """The disk that nodes share stays as it is, byte by byte."""
    before = launch.image.file("disk").read_bytes()
    engine.stop(start(launch))

    assert launch.image.file("disk").read_bytes() == before
    assert (launch.directory / OVERLAY).exists()


@qemu
def test_overlay_that_is_there_is_used_again(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """After a power cut, a node comes back with its disk."""
    engine.stop(start(launch))
    inode = (launch.directory / OVERLAY).stat().st_ino
    start(launch)

    assert (launch.directory / OVERLAY).stat().st_ino == inode


@qemu
def test_node_belongs_to_its_cluster(start: Any, launch: Launch) -> None:
    """The reaper finds the process by the cluster's name."""
    endpoint = start(launch)

    assert endpoint.handle in list(processes.of_cluster(launch.cluster))


@qemu
def test_node_has_a_process_group_of_its_own(start: Any, launch: Launch) -> None:
    """A Ctrl-C in the terminal is pytest's, and does not end nodes behind its back."""
    pid = int(start(launch).handle.partition(":")[0])

    assert os.getsid(pid) == os.getpgid(pid) != os.getpgid(0)


@qemu
def test_stop_ends_qemu(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """After the stop the process is gone and its port is free, and no zombie is left."""
    endpoint = start(launch)
    engine.stop(endpoint)

    assert not Path("/proc", endpoint.handle.partition(":")[0]).exists()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((endpoint.host, endpoint.port), timeout=5)


@qemu
def test_stopped_node_is_dead(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """The engine says so, in a few words."""
    endpoint = start(launch)
    engine.stop(endpoint)

    assert engine.death(endpoint) == "its QEMU process is gone"


@qemu
def test_stopping_twice_is_no_error(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """Stop is idempotent."""
    endpoint = start(launch)
    engine.stop(endpoint)
    engine.stop(endpoint)


@qemu
def test_killed_qemu_is_dead_of_that_signal(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """A QEMU that somebody else killed is found out, with the signal."""
    endpoint = start(launch)
    processes.kill(endpoint.handle)

    assert eventually(lambda: engine.death(endpoint) is not None)
    assert engine.death(endpoint) == "QEMU was killed by signal 9"


@qemu
def test_qemu_that_quits_is_dead_with_its_status(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """A QEMU that ended in order is found out, with its status."""
    endpoint = start(launch)
    with Monitor.connect(endpoint.directory / QMP_SOCKET) as monitor:
        monitor.execute("quit")

    assert eventually(lambda: engine.death(endpoint) is not None)
    assert engine.death(endpoint) == "QEMU ended with status 0"


@qemu
def test_another_process_sees_and_ends_the_node(engine: LocalEngine, start: Any, launch: Launch) -> None:
    """What one process started, another ends with nothing but the endpoint."""
    endpoint = start(launch)
    code = (
        "import pathlib, sys\n"
        "from pytest_pidoc.engines.engine import Endpoint\n"
        "from pytest_pidoc.engines.local import LocalEngine\n"
        "endpoint = Endpoint('local', '127.0.0.1', 1, pathlib.Path('/'), sys.argv[1])\n"
        "print(LocalEngine().death(endpoint))\n"
        "LocalEngine().stop(endpoint)\n"
        "print(LocalEngine().death(endpoint))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, endpoint.handle], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["None", "its QEMU process is gone"]
    assert eventually(lambda: engine.death(endpoint) == "QEMU was killed by signal 9")


@qemu
def test_node_that_cannot_start_has_qemus_last_words(engine: LocalEngine, launch: Launch) -> None:
    """What QEMU says before it gives up is in the error, soon, and nothing is left."""
    files = {**launch.image.manifest.files}
    files["kernel"] = dataclasses.replace(files["kernel"], name="missing")
    image = dataclasses.replace(launch.image, manifest=dataclasses.replace(launch.image.manifest, files=files))
    start = time.monotonic()
    with pytest.raises(NodeDied, match="pi-1 died right after its start: QEMU ended with status 1") as caught:
        engine.start(dataclasses.replace(launch, image=image))

    assert time.monotonic() - start < 10
    assert "missing" in caught.value.evidence
    assert caught.value.look == str(launch.directory / QEMU_LOG)
    assert list(processes.of_cluster(launch.cluster)) == []


@qemu
def test_disk_that_is_none_is_refused(engine: LocalEngine, tmp_path: Path) -> None:
    """A disk that QEMU cannot read is an error with the reason, and nothing is left."""
    launch = make_launch(tmp_path / "pi-1", make_image(tmp_path / "image"), cluster=f"c-local-{os.getpid()}")
    with pytest.raises((EngineUnavailable, NodeDied)) as caught:
        engine.start(launch)

    assert "qcow2" in caught.value.evidence
    assert list(processes.of_cluster(launch.cluster)) == []


def test_more_processors_than_there_are(engine: LocalEngine, launch_without_qemu: Launch) -> None:
    """A promise that this machine cannot keep is refused."""
    with pytest.raises(SettingsError, match=r"cpus of pi-1 must be at most \d+, the processors of the host, not 1000"):
        engine.start(dataclasses.replace(launch_without_qemu, cpus=1000))


@pytest.fixture
def launch_without_qemu(tmp_path: Path) -> Launch:
    return make_launch(tmp_path / "pi-1", make_image(tmp_path / "image"))


def test_missing_program_is_named(
    engine: LocalEngine, launch_without_qemu: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without qemu-img the error says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineUnavailable, match="qemu-img is not installed") as caught:
        engine.start(launch_without_qemu)

    assert "apt-get install" in caught.value.tip


@qemu
def test_missing_emulator_is_named(engine: LocalEngine, launch: Launch) -> None:
    """A model whose QEMU is not installed is an error that says which, not a FileNotFoundError."""
    machine = dataclasses.replace(launch.machine, binary="qemu-system-abacus")
    with pytest.raises(EngineUnavailable, match="qemu-system-abacus is not installed"):
        engine.start(dataclasses.replace(launch, machine=machine))


@qemu
def test_version_is_numbers(engine: LocalEngine) -> None:
    """QEMU's version can be compared."""
    assert (5, 0, 0) < engine.qemu_version("qemu-system-aarch64").numbers < (100, 0, 0)


def script(tmp_path: Path, text: str) -> str:
    """Make a program that stands for a broken QEMU."""
    path = tmp_path / "qemu-broken"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_version_of_something_else(engine: LocalEngine, tmp_path: Path) -> None:
    """A program that says no version is refused, with what it said."""
    with pytest.raises(EngineUnavailable, match="did not print its version") as caught:
        engine.qemu_version(script(tmp_path, "echo I am an abacus"))

    assert caught.value.evidence.strip() == "I am an abacus"


def test_program_that_fails(engine: LocalEngine, tmp_path: Path) -> None:
    """A QEMU that ends with an error is an error with its last words."""
    with pytest.raises(EngineUnavailable, match="failed") as caught:
        engine.run_qemu(script(tmp_path, "echo no such machine >&2; exit 1"), [], timeout=10)

    assert caught.value.evidence.strip() == "no such machine"


def test_program_that_hangs(engine: LocalEngine, tmp_path: Path) -> None:
    """A QEMU that does not end is ended after the timeout."""
    with pytest.raises(EngineUnavailable, match=r"did not finish within 0\.05 s"):
        engine.run_qemu(script(tmp_path, "exec sleep 3600"), [], timeout=0.05)


def test_death_behind_a_socket_that_is_left(engine: LocalEngine, launch_without_qemu: Launch, tmp_path: Path) -> None:
    """A QEMU that dies after it has made its monitor's socket is not waited for until the timeout."""
    code = "import socket, time; socket.socket(socket.AF_UNIX).bind('qmp.sock'); time.sleep(0.3); raise SystemExit(3)"
    binary = script(tmp_path, f'exec {sys.executable} -c "{code}"')
    (launch_without_qemu.directory / OVERLAY).write_bytes(b"")
    start = time.monotonic()
    with pytest.raises(NodeDied, match="QEMU ended with status 3"):
        engine.start(
            dataclasses.replace(
                launch_without_qemu, machine=dataclasses.replace(launch_without_qemu.machine, binary=binary)
            )
        )

    assert time.monotonic() - start < 15


def test_node_that_ends_while_it_is_looked_at(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is alive until the look that finds its end, which then knows how it ended."""
    with subprocess.Popen(["sleep", "600"]) as child:
        try:
            handle = processes.identify(child.pid) or ""
            monkeypatch.setitem(LocalEngine._children, handle, child)
            endpoint = Endpoint("local", "127.0.0.1", 1, tmp_path, handle)
            with monkeypatch.context() as looks:
                answers = iter([True, False])
                looks.setattr(processes, "is_alive", lambda handle: next(answers))
                assert engine.death(endpoint) is None
        finally:
            child.kill()
        assert eventually(lambda: engine.death(endpoint) == "QEMU was killed by signal 9")


USERNET = """\
Hub -1 (net0):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[ESTABLISHED]   25       127.0.0.1 50000       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]  12       127.0.0.1 40080       10.0.2.15    80     0     0\r
  TCP[HOST_FORWARD]  11       127.0.0.1 42345       10.0.2.15    22     0     0\r
  UDP[236 sec]       20       10.0.2.15 35345       10.0.2.3    53     0     0\r
"""


def test_port_of_the_forward_to_ssh() -> None:
    """Of all connections, the forward to the guest's port 22 is taken."""
    assert forwarded_port(USERNET) == 42345


@pytest.mark.parametrize("text", ["", USERNET.replace("  22  ", "  23  "), "unknown command: 'info usernet'"])
def test_no_forward_is_an_error(text: str) -> None:
    """A QEMU without the forward is an error that shows what it said."""
    with pytest.raises(MonitorError, match="no port that is forwarded") as caught:
        forwarded_port(text)

    assert caught.value.evidence == text
