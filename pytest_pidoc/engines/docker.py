"""The engine ``docker``: one locked-down container per node."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import threading
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_pidoc.containers.daemon import GUEST_LABEL, daemon_errors
from pytest_pidoc.containers.reaper import watched
from pytest_pidoc.containers.running import own_labels, remove
from pytest_pidoc.engines.engine import Endpoint, how_qemu_ended, refuse_more_cpus
from pytest_pidoc.errors import EngineUnavailable, ImageError, MonitorError, NodeDied
from pytest_pidoc.host import documents, forking, processes
from pytest_pidoc.machines import MIB
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu import events, guard, migration
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.overlay import overlay_command
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import BOOT_ELF, OVERLAY, QEMU_COMMAND, QEMU_LOG, QMP_SOCKET, RAM, STATE

if TYPE_CHECKING:
    import docker

__all__ = ["DockerEngine"]

START_TIMEOUT = 30.0  # seconds until QEMU answers on its monitor; 0.7 s on an idle host
DIRECTORY = PurePosixPath("/run/pidoc")  # the node's directory, in the container
GUEST = PurePosixPath("/guest")
TEMPLATE = PurePosixPath("/template")
GUARD = "/usr/local/lib/pidoc/guard.py"
SSH_PORT = 2222  # where QEMU forwards to the guest's SSH port, in the container
# What a container uses in addition to the RAM: QEMU's cache of translated code, QEMU's own (70 to 90 MB were measured),
# and the pages of files that it has open.
QEMU_ALLOWANCE = (qemu.CODE_CACHE + 256) * MIB
CPU_PERIOD = 100_000  # microseconds, the kernel's default
NOBODY = 65534
PIDS = 256  # QEMU has a thread per virtual CPU and up to 64 for its disks


class DockerEngine:
    """Starts QEMU in containers of one image. One object per process; any process can end its nodes.

    Parameters
    ----------
    client
        The daemon, from `pytest_pidoc.containers.daemon.connect`. The caller closes it.
    reference
        The container image: with the guest in it, or with QEMU alone; then the guest's files are mounted.
    """

    name = "docker"

    def __init__(self, client: docker.DockerClient, reference: str) -> None:
        self._client = client
        self._api = client.api
        self._reference = reference
        self._versions: dict[str, QemuVersion] = {}
        self._lock = threading.Lock()
        forking.renew_in_children(self)

    def forget(self) -> list[Any]:
        """Let the client open connections of its own, in a child process that has inherited it."""
        self._lock = threading.Lock()
        self._client.close()  # it can be used on
        return []

    def qemu_version(self, binary: str) -> QemuVersion:
        """Return the version of the QEMU program *binary* in the container image."""
        with self._lock:
            if binary not in self._versions:
                self._versions[binary] = QemuVersion.parse(self._run([binary, "--version"], timeout=START_TIMEOUT))
            return self._versions[binary]

    def run_qemu(self, binary: str, arguments: list[str], *, timeout: float, directory: Path | None = None) -> None:
        """Run a QEMU to its end, in a container of its own that sees *directory*."""
        self._run([binary, *arguments], timeout=timeout, directory=directory)

    def start(self, launch: Launch) -> Endpoint:
        """Start a node's container and wait until its QEMU answers."""
        name = f"pidoc-{launch.cluster}-{launch.name}"
        if launch.cpus is not None:
            with daemon_errors("report its settings"):
                refuse_more_cpus(launch, int(self._api.info()["NCPU"]))
        with daemon_errors(f"start {launch.name}"):
            self._clear(name)
        (launch.directory / QMP_SOCKET).unlink(missing_ok=True)  # a former life's, after a power cut
        started = False
        try:
            with daemon_errors(f"start {launch.name}"):
                container = self._create(launch, name)
                events.prepare(launch.directory)
                self._hand_over(launch.directory)
                self._api.start(container)
                self._wait_for_qemu(launch, container)
                if launch.guarded:
                    guard.warn_if_open(launch.directory / QEMU_LOG)
                if launch.forked:
                    version = self.qemu_version(launch.machine.binary)
                    migration.restore(launch, Path(TEMPLATE / STATE), version, death=lambda: self._death(container))
                ports = self._api.inspect_container(container)["NetworkSettings"]["Ports"]
                port = int(ports[f"{SSH_PORT}/tcp"][0]["HostPort"])
            started = True
            return Endpoint(self.name, "127.0.0.1", port, launch.directory, container)
        finally:
            if not started:  # also when Ctrl-C came before the daemon had told the container's id
                remove(self._client, name)

    def death(self, endpoint: Endpoint) -> str | None:
        """Return how the container ended, or ``None`` while it runs."""
        return self._death(endpoint.handle)

    def _death(self, container: str) -> str | None:
        import docker.errors

        with daemon_errors("inspect a node"):
            try:
                state = self._api.inspect_container(container)["State"]
            except docker.errors.NotFound:
                return "its container was removed"
        if state["Running"]:
            return None
        return _how_it_ended(state)

    def stop(self, endpoint: Endpoint) -> None:
        """Kill the container and remove it: nothing of a node is kept but its directory."""
        remove(self._client, endpoint.handle)

    def limit_cpus(self, endpoint: Endpoint, cpus: float | None) -> float | None:
        """Limit the container to that share of the host's processors; return the limit before."""
        with daemon_errors("limit a node"):
            quota = self._api.inspect_container(endpoint.handle)["HostConfig"]["CpuQuota"]
            self._api.update_container(endpoint.handle, cpu_quota=_quota(cpus))
        return None if quota <= 0 else quota / CPU_PERIOD

    def _clear(self, name: str) -> None:
        """Remove the container of a node that died by itself and is started again without a stop."""
        import docker.errors

        try:
            running = self._api.inspect_container(name)["State"]["Running"]
        except docker.errors.NotFound:
            return
        if running:
            raise EngineUnavailable(f"A container named {name} is already running.", tip=f"run docker rm -f {name}")
        remove(self._client, name)

    def _create(self, launch: Launch, name: str) -> str:
        """Create the node's container and return its id."""
        import docker.errors

        disk = GUEST / launch.image.manifest.files["disk"].name
        forward = f"tcp:0.0.0.0:{SSH_PORT}"
        memory = launch.memory + QEMU_ALLOWANCE
        arguments = qemu.arguments(
            launch,
            guest=Path(GUEST),
            forward=forward,
            template=None if launch.template is None else Path(TEMPLATE),
            read_only=launch.forked and qemu.maps_read_only_files(self.qemu_version(launch.machine.binary)),
        )
        if launch.guarded:
            arguments = guard.command(arguments, python="python3", script=GUARD)
        command = [*overlay_command(Path(disk)), "--", *arguments]
        with contextlib.suppress(OSError):  # it is for the evidence only
            (launch.directory / QEMU_COMMAND).write_text(f"{shlex.join(command)}\n", encoding="utf-8")
        try:
            container = self._api.create_container(
                self._reference,
                name=name,
                command=command,
                user=self._node_user,
                labels=own_labels(launch.cluster, launch.name),
                environment={processes.CLUSTER_VARIABLE: launch.cluster},
                ports=[SSH_PORT],
                working_dir=str(DIRECTORY),
                host_config=self._host_config(
                    mounts=[
                        _bind(launch.directory, DIRECTORY),
                        *self._guest_mounts(launch, command),
                        *self._template_mounts(launch),
                    ],
                    mem_limit=memory,
                    memswap_limit=memory,  # of memory and swap together: no swap
                    cpu_quota=None if launch.cpus is None else _quota(launch.cpus),
                    port_bindings={SSH_PORT: ("127.0.0.1", launch.port)},
                ),
            )
        except docker.errors.APIError as error:
            reason = str(error.explanation)
            if "bind source path does not exist" in reason:
                raise EngineUnavailable(
                    f"The Docker daemon cannot see {launch.directory}.",
                    tip="use --pidoc-engine=local; the engine docker requires a daemon with the host's files",
                ) from error
            raise
        return str(container["Id"])

    def _guest_mounts(self, launch: Launch, command: list[str]) -> list[Any]:
        """Return the mounts of the guest's files that the command names; the private key is not among them."""
        if self._guest_key == launch.image.manifest.key:
            return []
        mounts = []
        for role, file in launch.image.manifest.files.items():
            target = GUEST / file.name
            if not any(str(target) in part for part in command):
                continue
            source = launch.image.file(role)
            if not source.exists():
                raise ImageError(
                    f"Container image {self._reference} does not contain guest {launch.image}, "
                    f"and {source} does not exist.",
                    tip="run pidoc build",
                )
            mounts.append(_bind(source, target, read_only=True))
        return mounts

    def _template_mounts(self, launch: Launch) -> list[Any]:
        """Return the mounts of a template's files, because only the calling user has access to its directory."""
        if launch.template is None:
            return []
        paths = [launch.template / name for name in (RAM, STATE, OVERLAY, BOOT_ELF)]
        return [_bind(path, TEMPLATE / path.name, read_only=True) for path in paths if path.exists()]

    def _hand_over(self, directory: Path) -> None:
        """Give the node's directory to the user as whom QEMU runs, if that is not the calling user."""
        if self._node_user == self._user:
            return
        for path in (directory, *directory.iterdir()):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def _wait_for_qemu(self, launch: Launch, container: str) -> None:
        """Wait until QEMU answers on its monitor, which it does when it has created the machine."""
        deadline = Deadline(START_TIMEOUT)
        path = launch.directory / QMP_SOCKET
        log = launch.directory / QEMU_LOG
        while True:
            with contextlib.suppress(MonitorError):
                Monitor.connect(path, timeout=deadline.remaining if path.exists() else 0.0).close()
                return
            if (how := self._death(container)) is not None:
                said = self._api.logs(container, tail=20).decode(errors="replace")
                raise NodeDied(
                    f"{launch.name} died right after its start: {how}.",
                    evidence=documents.tail(said),
                    look=str(log),
                )
            if deadline.expired:
                raise NodeDied(
                    f"{launch.name}: QEMU in the container did not answer within {START_TIMEOUT:g} s.",
                    look=str(log),
                    tip="use a Docker daemon on the host itself; its containers must share Unix sockets with the host",
                )
            deadline.pause()

    def _run(self, command: list[str], *, timeout: float, directory: Path | None = None) -> str:
        """Run a program to its end in a container of its own and return what it prints."""
        import requests

        session = f"run-{os.getpid()}-{secrets.token_hex(4)}"
        with watched(session), daemon_errors(f"run {command[0]}"):
            container = self._api.create_container(
                self._reference,
                entrypoint=command[:1],
                command=command[1:],
                user=self._user,
                labels=own_labels(session),
                working_dir=None if directory is None else str(DIRECTORY),
                host_config=self._host_config(
                    network_mode="none",
                    mem_limit=1024 * MIB,
                    mounts=[] if directory is None else [_bind(directory, DIRECTORY)],
                ),
            )["Id"]
            try:
                self._api.start(container)
                try:
                    status = self._api.wait(container, timeout=timeout)[  # type: ignore[arg-type] # a float will do
                        "StatusCode"
                    ]
                except (requests.Timeout, requests.ConnectionError) as error:
                    raise EngineUnavailable(
                        f"{command[0]} did not finish within {timeout:g} s in a container.",
                        tip="run docker info to check the daemon, or use --pidoc-engine=local",
                    ) from error
                text = self._api.logs(container).decode(errors="replace")
            finally:
                remove(self._client, container)
        if status != 0:
            raise EngineUnavailable(f"{' '.join(command)} failed in a container.", evidence=documents.tail(text))
        return text

    def _host_config(self, **more: Any) -> Any:
        """Return the restrictions of all our containers, and *more*. Seccomp and AppArmor stay Docker's own."""
        import docker.types

        return self._api.create_host_config(
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            read_only=True,
            tmpfs={"/tmp": "size=64m,mode=1777"},  # noqa: S108 # the container's own
            pids_limit=PIDS,
            log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m"}),
            userns_mode="host"
            if "userns" in self._security_options
            else None,  # or it could not write to our directory
            **more,
        )

    @property
    def _user(self) -> str:
        """The calling user, in the container. In rootless Docker that is root."""
        return "0:0" if "rootless" in self._security_options else f"{os.getuid()}:{os.getgid()}"

    @property
    def _node_user(self) -> str:
        """QEMU's user: the caller, or nobody if the caller is root. No other user can see the node's directory."""
        return self._user if os.getuid() or "rootless" in self._security_options else f"{NOBODY}:{NOBODY}"

    @cached_property
    def _security_options(self) -> frozenset[str]:
        """The names in ``name=seccomp,profile=default`` and the like."""
        with daemon_errors("report its settings"):
            options = self._api.info().get("SecurityOptions") or []
        return frozenset(option.partition(",")[0].removeprefix("name=") for option in options)

    @cached_property
    def _guest_key(self) -> str | None:
        """The key of the guest in the container image; ``None`` if it contains no guest."""
        import docker.errors

        with daemon_errors(f"inspect {self._reference}"):
            try:
                labels = self._client.images.get(self._reference).labels
            except docker.errors.ImageNotFound as error:
                raise ImageError(
                    f"The container image {self._reference} does not exist.", tip="run pidoc build"
                ) from error
        return labels.get(GUEST_LABEL) or None


def _quota(cpus: float | None) -> int:
    """Return a container's limit in microseconds of each period; unlike ``NanoCpus``, it can be lifted again."""
    return -1 if cpus is None else round(cpus * CPU_PERIOD)


def _how_it_ended(state: dict[str, Any]) -> str:
    """Describe in a few words how a container ended, from its ``State``."""
    if state["OOMKilled"]:
        return "its container exceeded its memory limit and was killed"
    if state.get("Error"):
        return f"its container failed to run: {state['Error']}"
    status = state["ExitCode"]
    return how_qemu_ended(128 - status if status > 128 else status)


def _bind(source: Path, target: PurePosixPath, *, read_only: bool = False) -> Any:
    import docker.types

    # Unlike with -v, a source that the daemon does not see is an error and not a new directory.
    return docker.types.Mount(str(target), str(source.resolve()), type="bind", read_only=read_only)
