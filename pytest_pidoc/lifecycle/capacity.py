"""Room: how many nodes fit into this machine's memory, and how many may start at a time.

What runs is known from the records of the user's clusters. Memory counts as if every guest used all of its own; that
forks share much of it is a reserve. Processors are shared: what counts is how many nodes start at once.
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
from pytest_pidoc.machines import MIB, machine
from pytest_pidoc.settings import ClusterSpec
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress

__all__ = ["awaited", "booked", "memory", "needed", "slot"]

T = TypeVar("T")

QEMU = 100 * MIB  # of a QEMU's own; 70 to 90 MB were measured
RESERVE = 0.1  # of the machine's memory, for everything else
LOCK_PATIENCE = 30.0  # seconds; the lock is held for milliseconds
SLOT_INTERVAL = 0.02  # seconds between two looks for a free slot

#: Nodes that start at a time. Of eight forks at once, each took a sixth more processor time than with four at a time
#: (medians of two runs on two processors), and the first ones were ready later.
STARTS_PER_CPU = 2


def needed(spec: ClusterSpec) -> int:
    """Return how many bytes of this machine's memory a cluster may use."""
    return spec.nodes * ((spec.memory or machine(spec.model).memory) + QEMU)


def memory(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process may use: the machine's, or what its control groups may.

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


@contextlib.contextmanager
def booked(spec: ClusterSpec, *, overcommit: bool) -> Iterator[int]:
    """Hold the lock under which a cluster's record is written, if there is room for it; give the bytes it needs.

    Raises
    ------
    SettingsError
        It would not fit either if nothing else ran.
    NoRoom
        It does not fit now.
    """
    need, there = needed(spec), int(memory() * (1 - RESERVE))
    what = f"{spec.nodes} x {spec.model} may use {need // MIB} MiB"
    if need > there and not overcommit:
        raise SettingsError(
            f"{what}, and this machine has {there // MIB} MiB for nodes.",
            tip="fewer nodes, less memory=, or --pidoc-overcommit",
        )
    with locked(records.root() / "room.lock", purpose="a start", timeout=LOCK_PATIENCE):
        running = list(_running())
        used = sum(int(record.get("memory") or 0) for record in running)
        if need + used > there and not overcommit:
            names = ", ".join(sorted(str(record.get("name")) for record in running))
            own = processes.own()
            raise NoRoom(
                f"{what}, and of the {there // MIB} MiB that this machine has for nodes, {used // MIB} MiB are taken"
                f" by {names}.",
                tip="pidoc ps, pidoc down, fewer workers (-n), or --pidoc-overcommit",
                others=any(record["owner"] not in (None, own) for record in running),
            )
        yield need


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
    """Try to start something until there is room for it.

    Parameters
    ----------
    attempt
        Starts it.
    patience
        How long to wait, which is done only for the nodes of other processes.
    progress
        Hears of the wait.
    make_room
        Ends something that nobody uses; tells whether there was something.

    Raises
    ------
    NoRoom
        There has been none in that time.
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
                progress.step(f"waiting for room, at most {patience.timeout:.0f} s: {error.what}")
            told = True
        patience.pause()


@contextlib.contextmanager
def slot(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Be one of the few nodes of this user that start at a time; wait until it is this one's turn, or *cancelled*."""
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
