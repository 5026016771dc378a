"""Capacity: how many nodes fit into the host's memory, and how many start at a time.

What runs is known from the records of the user's clusters. Memory counts as if every guest used all of its own; that
forks share much of it is a reserve. Processors are shared: what counts is how many nodes start at the same time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pytest_pidoc.errors import NoRoom, PidocError, SettingsError
from pytest_pidoc.host import processes, records
from pytest_pidoc.host.locks import locked, try_lock
from pytest_pidoc.machines import MIB
from pytest_pidoc.settings.spec import ClusterSpec
from pytest_pidoc.values.checks import is_whole
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress

__all__ = ["LOOK_INTERVAL", "PATIENCE", "awaited", "booked", "memory", "needed", "require", "slot"]

T = TypeVar("T")

QEMU = 100 * MIB  # of a QEMU's own; 70 to 90 MB were measured
RESERVE = 0.1  # of the host's memory, for everything else
PATIENCE = 600.0  # seconds to wait until other processes' nodes end and give back their memory
LOOK_INTERVAL = 2.0
LOCK_PATIENCE = 30.0  # seconds; the lock is held for milliseconds
SLOT_INTERVAL = 0.02  # seconds between two looks for a free slot

#: Nodes that start at a time. Of eight forks at once, each took a sixth more processor time than with four at a time
#: (medians of two runs on two processors), and the first ones were ready later.
STARTS_PER_CPU = 2


def needed(spec: ClusterSpec) -> int:
    """Return how many bytes of the host's memory a cluster can use."""
    return spec.nodes * (spec.memory_per_node + QEMU)


def memory(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process can use: the host's, or the limit of its control groups.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max)
    """
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                base, file = root / "sys/fs/cgroup", "memory.max"
            elif "memory" in controllers.split(","):
                base, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            else:
                continue
            group = base / path.lstrip("/")
            for place in (group, *group.parents):  # each limits all below it
                if base in (place, *place.parents):
                    amounts += _limit(place / file)
    return min(amounts)


def _limit(file: Path) -> list[int]:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []  # or "max"


def require(spec: ClusterSpec, *, overcommit: bool) -> None:
    """Check that a cluster fits into the host's memory beside those that run; only their records are read.

    Raises
    ------
    SettingsError
        It would not fit either if nothing else ran.
    NoRoom
        It does not fit now.
    """
    if overcommit:
        return
    need, there = needed(spec), int(memory() * (1 - RESERVE))
    what = f"{spec.nodes} x {spec.model} can use {need // MIB} MiB"
    if need > there:
        raise SettingsError(
            f"{what}, but this host has {there // MIB} MiB for nodes.",
            tip="ask for fewer nodes, set memory to less, or use --pidoc-overcommit",
        )
    running = list(_running())
    used = sum(record["memory"] for record in running if is_whole(record.get("memory"), 0, 1 << 60))
    if need + used > there:
        names = ", ".join(sorted(str(record.get("name")) for record in running))
        own = processes.own()
        raise NoRoom(
            f"{what}, but {used // MIB} of the {there // MIB} MiB that this host has for nodes are taken by {names}.",
            tip="end clusters that pidoc ps lists with pidoc down, use fewer workers (-n), or use --pidoc-overcommit",
            others=any(record["owner"] not in (None, own) for record in running),
        )


@contextlib.contextmanager
def booked(spec: ClusterSpec, *, overcommit: bool) -> Iterator[int]:
    """Hold the lock under which a cluster's record is written, if the cluster fits; give the bytes it needs.

    Raises
    ------
    SettingsError, NoRoom
        It does not fit: see `require`.
    """
    with locked(records.root() / "room.lock", purpose="a start", timeout=LOCK_PATIENCE):
        require(spec, overcommit=overcommit)
        yield needed(spec)


def _running() -> Iterator[dict[str, Any]]:
    """Yield the record of every cluster of this user that is not just waiting to be reaped."""
    for directory in records.cluster_directories():
        with contextlib.suppress(PidocError):
            record = records.read(directory)
            if record["owner"] is None or processes.is_alive(record["owner"]):
                yield record


def awaited(
    attempt: Callable[[], T], *, patience: Deadline, progress: Progress, make_room: Callable[[], bool] = lambda: False
) -> T:
    """Try to start something until there is memory for it.

    Parameters
    ----------
    attempt
        Starts it, or raises `NoRoom`: cheaply, since it is called again and again.
    patience
        How long to wait. Only the nodes of other processes are waited for.
    progress
        Hears of the wait.
    make_room
        Ends something that nobody uses; tells whether there was something.

    Raises
    ------
    NoRoom
        There was not enough in that time.
    """
    told = False
    while True:
        try:
            return attempt()
        except NoRoom as error:
            if make_room():
                continue
            if patience.expired or not error.others:
                raise
            if not told:
                progress.step(f"waiting for memory, at most {patience.timeout:.0f} s: {error.what}")
            told = True
        patience.pause()


@contextlib.contextmanager
def slot(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Be one of the few nodes of this user that start at a time; wait until it is its turn, or *cancelled*."""
    directory = records.root() / "slots"
    directory.mkdir(mode=0o700, exist_ok=True)
    files = [directory / str(number) for number in range(STARTS_PER_CPU * len(os.sched_getaffinity(0)))]
    descriptor = None
    while descriptor is None and not cancelled():
        descriptor = _first_free(files)
        if descriptor is None:
            time.sleep(SLOT_INTERVAL)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _first_free(files: Iterable[Path]) -> int | None:
    """Lock one of the files that nobody has locked; the lock ends with its holder, or when it is closed."""
    for file in files:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if try_lock(descriptor, shared=False):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None
