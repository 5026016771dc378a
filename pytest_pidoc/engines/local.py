"""The engine ``local``: one QEMU process on this host per node."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from typing import ClassVar

from pytest_pidoc.engines import cgroups
from pytest_pidoc.engines.choose import INSTALL_QEMU
from pytest_pidoc.engines.engine import Endpoint, how_qemu_ended, refuse_more_cpus
from pytest_pidoc.errors import EngineUnavailable, FaultError, MonitorError, NodeDied, SettingsError
from pytest_pidoc.host import documents, processes
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu import events, guard, migration
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.overlay import overlay_command
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.qemu.usernet import forwarded_port
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import OVERLAY, QEMU_COMMAND, QEMU_LOG, QMP_SOCKET, STATE

__all__ = ["LocalEngine"]

DELEGATE = "run systemd-run --user --scope -p Delegate=yes pytest, or use --pidoc-engine=docker"
LAST_WORDS = 5.0  # seconds from QEMU's end until its exit status is available
START_TIMEOUT = 20.0  # seconds until QEMU answers on its monitor; 0.15 s on an idle host


class LocalEngine:
    """Starts QEMU on this host. What it started, other processes can end."""

    name = "local"

    #: What this process started, by all of its engines: an engine object might be gone while its nodes run on.
    _children: ClassVar[dict[str, subprocess.Popen[bytes]]] = {}

    def __init__(self) -> None:
        self._versions: dict[str, QemuVersion] = {}
        self._lock = threading.Lock()

    def qemu_version(self, binary: str) -> QemuVersion:
        """Return the version of the QEMU program *binary*."""
        with self._lock:
            if binary not in self._versions:
                self._versions[binary] = QemuVersion.parse(_run([binary, "--version"], timeout=START_TIMEOUT))
            return self._versions[binary]

    def run_qemu(self, binary: str, arguments: list[str], *, timeout: float, directory: Path | None = None) -> None:
        """Run a QEMU to its end, in *directory*."""
        _run([binary, *arguments], timeout=timeout, cwd=directory)

    def arguments(self, launch: Launch) -> list[str]:
        """Return the command line of a node's QEMU."""
        return qemu.arguments(
            launch,
            guest=launch.image.path,
            forward=f"tcp:127.0.0.1:{launch.port or 0}",
            template=launch.template,
            read_only=launch.forked and qemu.maps_read_only_files(self.qemu_version(launch.machine.binary)),
        )

    def start(self, launch: Launch) -> Endpoint:
        """Start a node's QEMU in the node's directory."""
        refuse_more_cpus(launch, os.cpu_count() or 1)
        directory = launch.directory
        if not (directory / OVERLAY).exists():
            _run(overlay_command(launch.image.file("disk")), timeout=START_TIMEOUT, cwd=directory)
        (directory / QMP_SOCKET).unlink(missing_ok=True)  # of the QEMU before a power cut
        events.prepare(directory)
        command = self.arguments(launch)
        if shutil.which(command[0]) is None:
            raise _missing(command[0])
        (directory / QEMU_COMMAND).write_text(f"{shlex.join(command)}\n", encoding="utf-8")
        with (directory / QEMU_LOG).open("ab") as log:
            child = subprocess.Popen(
                guard.command(command) if launch.guarded else command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o177,  # also of the sockets through which the node is controlled
                start_new_session=True,  # a Ctrl-C in the terminal is for pytest, which ends the node cleanly
                env={**os.environ, processes.CLUSTER_VARIABLE: launch.cluster},
            )
        try:
            pid, port = self._answer(launch, child)
            _limit_from_start(launch, pid)
            if launch.guarded:
                guard.warn_if_open(directory / QEMU_LOG)
            if launch.forked and launch.template is not None:
                version = self.qemu_version(command[0])
                migration.restore(launch, launch.template / STATE, version, death=lambda: _how_it_ended(child.poll()))
            handle = processes.identify(pid)
            if handle is None:
                raise NodeDied(
                    f"{launch.name} died right after its start.",
                    look=str(directory / QEMU_LOG),
                    tip="run the command in qemu.command by hand, in that directory",
                )
        except BaseException:
            child.terminate() if launch.guarded else child.kill()  # the guard's process kills QEMU then
            child.wait()
            cgroups.remove(directory)
            raise
        self._children[handle] = child
        return Endpoint(self.name, "127.0.0.1", port, directory, handle)

    def death(self, endpoint: Endpoint) -> str | None:
        """Return how QEMU ended, or ``None`` while it runs."""
        child = self._children.get(endpoint.handle)
        if child is None:
            return None if processes.is_alive(endpoint.handle) else "its QEMU process is gone"
        status = child.poll()
        if status is None:
            if processes.is_alive(endpoint.handle):  # asked once: it can end at any moment
                return None
            with contextlib.suppress(subprocess.TimeoutExpired):  # the guard's process will exit with QEMU's status
                status = child.wait(LAST_WORDS)
        if status is None:
            return "its QEMU process is gone"
        return how_qemu_ended(status)

    def stop(self, endpoint: Endpoint) -> None:
        """Kill QEMU: nothing of a node is kept but its overlay and its logs."""
        processes.kill(endpoint.handle)
        child = self._children.pop(endpoint.handle, None)
        if child is not None:
            child.wait()
        elif not processes.wait(endpoint.handle, timeout=10):
            raise NodeDied(f"Cannot kill the QEMU process {endpoint.handle}.")  # stuck in the kernel
        cgroups.remove(endpoint.directory)

    def limit_cpus(self, endpoint: Endpoint, cpus: float | None) -> float | None:
        """Put QEMU into a control group with that limit; return the limit before."""
        directory = endpoint.directory
        before = cgroups.cpus(directory)
        try:
            cgroups.limit(directory, _group(directory), processes.pid(endpoint.handle), cpus)
        except cgroups.CgroupError as error:
            raise FaultError(f"Cannot limit the CPUs of {directory.name}: {error}.", tip=DELEGATE) from error
        return before

    def _answer(self, launch: Launch, child: subprocess.Popen[bytes]) -> tuple[int, int]:
        """Wait for QEMU, and return its process id and the host port of its SSH forward."""
        deadline = Deadline(START_TIMEOUT)
        path = launch.directory / QMP_SOCKET
        while True:
            if child.poll() is not None:
                raise NodeDied(
                    f"{launch.name} died right after its start: {how_qemu_ended(child.returncode)}.",
                    evidence=documents.tail(launch.directory / QEMU_LOG),
                    look=str(launch.directory / QEMU_LOG),
                )
            try:
                # The socket of a QEMU that has died stays, so it must be looked at in between.
                with Monitor.connect(path, timeout=max(0.1, deadline.remaining), patience=0.1) as monitor:
                    return monitor.pid(), forwarded_port(monitor.human("info usernet"))
            except MonitorError:
                if deadline.expired:
                    raise


def _limit_from_start(launch: Launch, pid: int) -> None:
    if launch.cpus is None:
        return
    try:
        cgroups.limit(launch.directory, _group(launch.directory), pid, launch.cpus)
    except cgroups.CgroupError as error:
        raise SettingsError(f"Cannot limit {launch.name} to cpus={launch.cpus:g}: {error}.", tip=DELEGATE) from error


def _how_it_ended(status: int | None) -> str | None:
    return None if status is None else how_qemu_ended(status)


def _group(directory: Path) -> str:
    return f"{directory.parent.name}-{directory.name}"


def _run(command: list[str], *, timeout: float, cwd: Path | None = None) -> str:
    """Run a program of QEMU's to its end and return what it prints."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            timeout=timeout,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError as error:
        raise _missing(command[0]) from error
    except subprocess.TimeoutExpired as error:
        raise EngineUnavailable(
            f"{command[0]} did not finish within {timeout:g} s.",
            tip=f"run {command[0]} --version to see whether it works",
        ) from error
    except subprocess.CalledProcessError as error:
        raise EngineUnavailable(
            f"{' '.join(command)} failed.",
            evidence=documents.tail(error.stdout),
            tip=f"run {command[0]} --version to see whether it works",
        ) from error
    return done.stdout


def _missing(program: str) -> EngineUnavailable:
    return EngineUnavailable(f"{program} is not installed.", tip=INSTALL_QEMU)
