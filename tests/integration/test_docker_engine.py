"""The engine ``docker`` on a real daemon, with a guest that greets from bare metal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bare_metal import GREEDY, GREETING, make_image
from support import child

from pytest_pidoc.containers.build import build
from pytest_pidoc.containers.daemon import NODE_LABEL, SESSION_LABEL, connect
from pytest_pidoc.containers.running import node_containers, remove_session
from pytest_pidoc.engines.docker import NOBODY, PIDS, QEMU_ALLOWANCE, DockerEngine
from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.errors import EngineUnavailable, ImageError, NodeDied, SettingsError
from pytest_pidoc.host import sockets
from pytest_pidoc.machines import MIB, machine
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.values.files import CONSOLE_SOCKET, OVERLAY, QMP_SOCKET, SERIAL_LOG
from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

pytestmark = pytest.mark.docker

FOREVER = """
import sys
from pytest_pidoc.containers.daemon import connect
from pytest_pidoc.engines.docker import DockerEngine

DockerEngine(connect(), sys.argv[1]).run_qemu("qemu-system-aarch64", ["-M", "none", "-display", "none"], timeout=600)
"""


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = connect()
    yield client
    client.close()


@pytest.fixture(scope="module")
def reference(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(client, directory=tmp_path_factory.mktemp("containers"), progress=Progress())


@pytest.fixture(scope="module")
def engine(client: docker.DockerClient, reference: str) -> DockerEngine:
    return DockerEngine(client, reference)


@pytest.fixture
def launch(client: docker.DockerClient, tmp_path: Path) -> Iterator[Launch]:
    """Give a node to start; whatever carries its cluster's name is removed afterwards."""
    directory = tmp_path / "pi-1"
    directory.mkdir(mode=0o700)
    model = machine("pi3-virt")
    cluster = f"test-{os.getpid()}-{tmp_path.name[-8:].strip('_')}"
    yield Launch("pi-1", cluster, directory, model, make_image(tmp_path / "image"), memory=128 * MIB)
    remove_session(cluster, client)


def until(condition: Callable[[], Any], timeout: float = 10) -> Any:
    """Return the condition's value as soon as it is true."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)
    return value


def runs(client: docker.DockerClient, pid: int) -> list[str]:
    """Return what a process runs in containers that are no nodes."""
    return [each.id for each in node_containers(client) if each.cluster.startswith(f"run-{pid}-")]


def inspect(client: docker.DockerClient, endpoint: Endpoint) -> dict[str, Any]:
    return dict(client.api.inspect_container(endpoint.handle))


def qemu_process(client: docker.DockerClient, endpoint: Endpoint) -> int:
    """Return the process id on this host of the node's QEMU."""
    table = client.api.top(endpoint.handle, ps_args="-eo pid,comm")["Processes"]
    return next(int(pid) for pid, name in table if name.startswith("qemu-system"))


def test_a_node_starts_and_its_files_are_on_the_host(engine: DockerEngine, launch: Launch) -> None:
    """Serial log, monitor, console and overlay are in the node's directory, as with the engine local."""
    endpoint = engine.start(launch)
    assert (endpoint.engine, endpoint.host, endpoint.directory) == ("docker", "127.0.0.1", launch.directory)
    assert engine.death(endpoint) is None
    until(lambda: GREETING in (launch.directory / SERIAL_LOG).read_bytes())
    with Monitor.connect(launch.directory / QMP_SOCKET) as monitor:
        assert monitor.execute("query-status")["running"]
    sockets.connect(launch.directory / CONSOLE_SOCKET).close()
    assert (launch.directory / OVERLAY).stat().st_uid == (os.getuid() or NOBODY)


def test_a_node_is_locked_down(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """The daemon itself says what the container may not do."""
    found = inspect(client, engine.start(replace(launch, cpus=0.5)))
    host, config = found["HostConfig"], found["Config"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"]
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert host["Memory"] == host["MemorySwap"] == 128 * MIB + QEMU_ALLOWANCE
    assert host["CpuQuota"] == 50_000
    assert host["PidsLimit"] == PIDS
    assert host["NetworkMode"] != "host"
    assert not host["PidMode"]
    assert config["User"] == (f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{NOBODY}:{NOBODY}")
    assert config["Labels"][SESSION_LABEL] == launch.cluster
    assert config["Labels"][NODE_LABEL] == "pi-1"


def test_the_kernel_agrees(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """QEMU's own process has no capability, cannot gain one, and is under a seccomp filter."""
    pid = qemu_process(client, engine.start(launch))
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_qemu_is_nobody_special(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """It is not root, and of all file systems of this machine's it may write to that of the node's directory alone."""
    pid = qemu_process(client, engine.start(launch))
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()]
    memory = ("proc", "tmpfs", "devpts", "mqueue")  # file systems that are no disk's
    writable = {each[4] for each in mounts if each[5].split(",")[0] == "rw" and each[each.index("-") + 1] not in memory}
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert writable == {"/run/pidoc"}


def test_the_port_is_on_loopback_only(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """Docker chose a port on 127.0.0.1; no other address of this host has it."""
    endpoint = engine.start(launch)
    network = inspect(client, endpoint)["NetworkSettings"]
    (bindings,) = network["Ports"].values()
    assert bindings == [{"HostIp": "127.0.0.1", "HostPort": str(endpoint.port)}]
    socket.create_connection((endpoint.host, endpoint.port), timeout=5).close()
    (gateway,) = {attached["Gateway"] for attached in network["Networks"].values()}  # this host, on its bridge
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection((gateway, endpoint.port), timeout=2)


def test_the_private_key_stays_outside(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """The guest's files are mounted read-only, one by one, without the key that opens it."""
    mounts = inspect(client, engine.start(launch))["Mounts"]
    guest = {mount["Destination"]: mount["RW"] for mount in mounts if mount["Destination"] != "/run/pidoc"}
    assert guest == {"/guest/kernel": False, "/guest/initrd": False, "/guest/disk.qcow2": False}


def test_a_killed_qemu_is_a_death(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """Who kills QEMU from outside is seen, with the signal; then stop cleans up."""
    endpoint = engine.start(launch)
    os.kill(qemu_process(client, endpoint), signal.SIGKILL)
    assert until(lambda: engine.death(endpoint)) == "QEMU was killed by signal 9"
    engine.stop(endpoint)
    assert not node_containers(client, launch.cluster)


def test_a_removed_container_is_a_death(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """A `docker rm -f` by somebody else has its own words."""
    endpoint = engine.start(launch)
    subprocess.run(["docker", "rm", "-f", endpoint.handle], check=True, capture_output=True)
    assert engine.death(endpoint) == "its container was removed"
    engine.stop(endpoint)


def test_too_much_memory_is_a_death(
    engine: DockerEngine, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that needs more than its limit is killed, and the death says why."""
    monkeypatch.setattr("pytest_pidoc.engines.docker.QEMU_ALLOWANCE", -64 * MIB)
    greedy = replace(launch, image=make_image(tmp_path / "greedy", kernel=GREEDY))
    endpoint = engine.start(greedy)
    assert until(lambda: engine.death(endpoint), 30) == "its container exceeded its memory limit and was killed"


def test_stop_is_quick_idempotent_and_leaves_nothing(
    engine: DockerEngine, client: docker.DockerClient, launch: Launch
) -> None:
    """After stop the container and its port are gone; a second stop finds nothing to do."""
    endpoint = engine.start(launch)
    engine.stop(endpoint)
    engine.stop(endpoint)
    assert not node_containers(client, launch.cluster)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((endpoint.host, endpoint.port), timeout=5)


def test_two_may_stop_the_same_node(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """The owner and the reaper may meet: neither fails, and both return when it is gone."""
    endpoint = engine.start(launch)
    errors: list[BaseException] = []

    def stop() -> None:
        try:
            engine.stop(endpoint)
            assert engine.death(endpoint) == "its container was removed"
        except BaseException as error:  # noqa: BLE001 # told by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_node_starts_again_with_its_overlay(engine: DockerEngine, launch: Launch) -> None:
    """After a power cut the same disk is used again, and the serial log goes on."""
    engine.stop(engine.start(launch))
    before = (launch.directory / OVERLAY).stat().st_ino
    endpoint = engine.start(launch)
    until(lambda: (launch.directory / SERIAL_LOG).read_bytes().count(GREETING) == 2)
    assert (launch.directory / OVERLAY).stat().st_ino == before
    assert engine.death(endpoint) is None


def test_a_node_that_died_starts_again_without_a_stop(
    engine: DockerEngine, client: docker.DockerClient, launch: Launch
) -> None:
    """The container of a guest that powered itself off makes room for the next."""
    endpoint = engine.start(launch)
    with Monitor.connect(launch.directory / QMP_SOCKET) as monitor:
        monitor.execute("quit")
    assert until(lambda: engine.death(endpoint)) == "QEMU ended with status 0"
    assert engine.death(engine.start(launch)) is None
    assert len(node_containers(client, launch.cluster)) == 1


def test_a_running_node_is_not_started_twice(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """A second start is refused, and does the first node no harm."""
    endpoint = engine.start(launch)
    with pytest.raises(EngineUnavailable, match="is already running"):
        engine.start(launch)
    assert engine.death(endpoint) is None
    Monitor.connect(launch.directory / QMP_SOCKET).close()


def test_a_qemu_that_ends_at_once_shows_its_last_words(
    engine: DockerEngine, client: docker.DockerClient, launch: Launch
) -> None:
    """A machine that QEMU does not know: the error has QEMU's own message, and nothing is left."""
    broken = replace(launch, machine=replace(launch.machine, machine="pi99"))
    with pytest.raises(NodeDied, match="QEMU ended with status 1") as caught:
        engine.start(broken)
    assert "unsupported machine type" in caught.value.evidence
    assert "unsupported machine type" in (launch.directory / "qemu.log").read_text()
    assert not node_containers(client, launch.cluster)


def test_a_broken_disk_shows_what_qemu_img_said(engine: DockerEngine, launch: Launch) -> None:
    """Making the overlay may fail too."""
    launch.image.file("disk").write_bytes(b"no qcow2")
    with pytest.raises(NodeDied, match="died right after its start") as caught:
        engine.start(launch)
    assert "not in qcow2 format" in caught.value.evidence


def test_more_cpus_than_there_are(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """A promise that the daemon's machine cannot keep is refused."""
    with pytest.raises(SettingsError, match=r"cpus of pi-1 must be at most \d+, the processors of the host, not 1000"):
        engine.start(replace(launch, cpus=1000))
    assert not node_containers(client, launch.cluster)


def test_an_image_that_is_not_there(client: docker.DockerClient, launch: Launch) -> None:
    """A container image that was removed meanwhile is an ImageError."""
    with pytest.raises(ImageError, match="The container image pytest-pidoc/none:1 does not exist"):
        DockerEngine(client, "pytest-pidoc/none:1").start(launch)


def test_a_guest_that_is_not_there(engine: DockerEngine, launch: Launch) -> None:
    """A guest that is neither in the container image nor on this host is an ImageError."""
    launch.image.file("kernel").unlink()
    with pytest.raises(ImageError, match=r"does not contain guest .* does not exist"):
        engine.start(launch)


def test_a_directory_that_the_daemon_does_not_see(engine: DockerEngine, launch: Launch) -> None:
    """What happens with a daemon on another machine is told as that."""
    launch.directory.rmdir()
    with pytest.raises(EngineUnavailable, match="cannot see"):
        engine.start(launch)


def test_the_version_of_qemu_is_asked_once(engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version comes from the QEMU in the container, and then from memory."""
    version = engine.qemu_version("qemu-system-aarch64")
    assert version.numbers >= (7, 0, 0)
    monkeypatch.setattr("docker.APIClient.create_container", None)
    with pytest.raises(TypeError):
        engine.qemu_version("qemu-system-arm")

    assert engine.qemu_version("qemu-system-aarch64") == version


def test_a_program_that_is_not_there(engine: DockerEngine, client: docker.DockerClient) -> None:
    """A QEMU that the container image lacks is told by name, and leaves no container."""
    with pytest.raises(EngineUnavailable, match="qemu-system-vax"):
        engine.qemu_version("qemu-system-vax")
    assert not runs(client, os.getpid())


def test_a_qemu_that_does_not_end(engine: DockerEngine, client: docker.DockerClient) -> None:
    """A run is bounded, and what ran too long is removed."""
    with pytest.raises(EngineUnavailable, match=r"did not finish within 0\.5 s"):
        engine.run_qemu("qemu-system-aarch64", ["-M", "none", "-display", "none"], timeout=0.5)
    assert not runs(client, os.getpid())


def test_a_run_ends_with_who_asked_for_it(client: docker.DockerClient, reference: str) -> None:
    """After a SIGKILL in the middle of a run its container is removed, too."""
    with child(sys.executable, "-c", FOREVER, reference) as process:
        assert until(lambda: runs(client, process.pid))
        process.kill()
        assert until(lambda: not runs(client, process.pid))


def test_a_session_is_removed_whole(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """The label finds every node of a cluster, and no other."""
    second = replace(launch, name="pi-2", directory=launch.directory.with_name("pi-2"))
    second.directory.mkdir(mode=0o700)
    other = replace(launch, cluster=f"{launch.cluster}-other", directory=launch.directory.with_name("pi-3"))
    other.directory.mkdir(mode=0o700)
    ours, theirs = [engine.start(launch), engine.start(second)], engine.start(other)
    try:
        assert {(node.node, node.status) for node in node_containers(client, launch.cluster)} == {
            ("pi-1", "running"),
            ("pi-2", "running"),
        }
        assert remove_session(launch.cluster, client) == 2
        assert [engine.death(endpoint) for endpoint in ours] == ["its container was removed"] * 2
        assert engine.death(theirs) is None
    finally:
        remove_session(other.cluster, client)


def test_eight_nodes_start_side_by_side(engine: DockerEngine, client: docker.DockerClient, launch: Launch) -> None:
    """Threads share the engine: each node has its own port."""
    endpoints: list[Endpoint] = []

    def start(number: int) -> None:
        node = replace(launch, name=f"pi-{number}", directory=launch.directory.with_name(f"node-{number}"))
        node.directory.mkdir(mode=0o700)
        endpoints.append(engine.start(node))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({endpoint.port for endpoint in endpoints}) == 8
