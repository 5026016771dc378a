"""Identities of processes that stay unique: the kernel reuses a process id, but not with the same start time."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_pidoc.values.deadline import Deadline

__all__ = [
    "CLUSTER_VARIABLE",
    "children",
    "identify",
    "is_alive",
    "is_identity",
    "kill",
    "of_cluster",
    "own",
    "pid",
    "start_module",
    "wait",
]

#: Every process of a cluster has the cluster's name in this environment variable, so it can be found as soon as it
#: is executed, even if the process that started it was killed before it could write a record.
CLUSTER_VARIABLE = "PIDOC_CLUSTER"

EXECUTING = 2.0  # seconds to wait until a program is executed; milliseconds even on a busy host


def identify(pid: int) -> str | None:
    """Return ``pid:start:boot`` of a live process, or ``None`` if it has ended (a zombie has ended).

    *start* is in clock ticks since boot (proc(5), field 22 of ``/proc/PID/stat``), *boot* the kernel's boot id.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{pid}:{fields[19]}:{boot}"


def is_identity(value: object) -> bool:
    """Tell whether that has the form of what `identify` returns: ``pid:start:boot``."""
    return isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,8}:\d{1,20}:\S{1,99}", value, re.ASCII) is not None


def own() -> str:
    """Return the identity of this process."""
    return str(identify(os.getpid()))


def is_alive(identity: str) -> bool:
    """Tell whether the process that *identity* names still runs."""
    return identify(pid(identity)) == identity


def wait(identity: str, timeout: float | None) -> bool:
    """Wait until the process has ended, at most *timeout* seconds; tell whether it has. Any process will do."""
    with _open(identity) as descriptor:
        if descriptor is None:
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))


def kill(identity: str) -> None:
    """Send SIGKILL to the process, and only to it; does nothing if it has ended."""
    with _open(identity) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def of_cluster(cluster: str) -> Iterator[str]:
    """Yield the identity of every process of this user that has the cluster's name in its environment."""
    wanted = f"{CLUSTER_VARIABLE}={cluster}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = _environment(Path(entry.path))
        except OSError:  # gone, or another user's; or a thread of the kernel, which executes nothing
            continue
        if wanted in environment.split(b"\0") and (identity := identify(int(entry.name))):
            yield identity


def children() -> Iterator[str]:
    """Yield ``pid name`` of every child of this process, including zombies."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # gone
            continue
        name, _, fields = stat.rpartition(")")
        if int(fields.split()[1]) == os.getpid():
            yield f"{entry.name} {name.partition('(')[2]}"


def pid(identity: str) -> int:
    """Return the process id in an identity."""
    return int(identity.partition(":")[0])


def _environment(process: Path) -> bytes:
    """Return the environment of a process in /proc; wait for it if the process is just being executed.

    ``execve`` sets it last, together with the arguments, some time after the parent has continued.
    """
    deadline = Deadline(EXECUTING, interval=0.001)
    has_arguments = False
    while not (environment := (process / "environ").read_bytes()):
        if has_arguments or deadline.expired:  # it has none
            break
        has_arguments = bool((process / "cmdline").read_bytes())
        (process / "exe").readlink()
        deadline.pause()
    return environment


@contextlib.contextmanager
def _open(identity: str) -> Iterator[int | None]:
    """Open a descriptor of the process; yield ``None`` if it has ended."""
    try:
        descriptor = os.pidfd_open(pid(identity))
    except ProcessLookupError:
        yield None
        return
    try:
        # The descriptor holds whatever process has the id now; the start time tells whether it is the right one.
        yield descriptor if is_alive(identity) else None
    finally:
        os.close(descriptor)


def start_module(module: str, arguments: Sequence[str], *, holding: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a module of this package as a process in its own session, which outlives this process.

    Parameters
    ----------
    module
        The module that ``python -m`` runs.
    arguments
        Its command line.
    holding
        File descriptors that it inherits.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=holding,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
