"""How many nodes fit into a machine, and how many start at a time."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support import child

from pytest_pidoc.errors import NoRoom, SettingsError
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import capacity
from pytest_pidoc.machines import MIB
from pytest_pidoc.settings.spec import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("clusters")

NODE = 512 * MIB + capacity.QEMU


def spec(nodes: int, **more: object):  # type: ignore[no-untyped-def]
    return Settings.load({"nodes": nodes, **more}, environment={}).spec()


def most() -> int:
    """Return how many nodes of the default model fit into this machine."""
    return int(capacity.memory() * (1 - capacity.RESERVE)) // NODE


@pytest.fixture
def other() -> Iterator[str]:
    """Give the identity of another live process."""
    with child() as process:
        yield str(processes.identify(process.pid))


def running(owner: str | None, need: int) -> str:
    directory = records.new_directory()
    record = {"name": directory.name, "owner": owner, "engine": "local", "memory": need}
    records.write(directory, record)
    return directory.name


def test_need_is_memory_and_a_qemu_per_node() -> None:
    """By the model's memory, or by what was asked for."""
    assert capacity.needed(spec(3)) == 3 * NODE
    assert capacity.needed(spec(1, memory="1G")) == 1024 * MIB + capacity.QEMU


def test_what_fits_is_booked() -> None:
    """With what it needs."""
    with capacity.booked(spec(1), overcommit=False) as need:
        assert need == NODE


def test_what_never_fits_is_refused() -> None:
    """Whatever runs; unless the user insists."""
    large = spec(1, memory=capacity.memory() // MIB * MIB)
    with pytest.raises(SettingsError, match=r"can use \d+ MiB, but this host has \d+ MiB") as caught:
        capacity.booked(large, overcommit=False).__enter__()
    assert "--pidoc-overcommit" in caught.value.tip

    with capacity.booked(large, overcommit=True) as need:
        assert need > capacity.memory()


@pytest.mark.parametrize("others", [True, False])
def test_what_does_not_fit_now_may_fit_later(other: str, others: bool) -> None:
    """The error names who takes the room, and knows whether it may change by itself."""
    name = running(other if others else None, most() * NODE)
    with pytest.raises(NoRoom, match=f"are taken by {name}") as caught:
        capacity.booked(spec(1), overcommit=False).__enter__()
    assert caught.value.others is others

    with capacity.booked(spec(1), overcommit=True):
        pass


def test_who_is_gone_takes_nothing() -> None:
    """Its nodes are about to be reaped."""
    with child() as process:
        gone = str(processes.identify(process.pid))
    running(gone, most() * NODE)

    with capacity.booked(spec(1), overcommit=False):
        pass


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1048576\n"}, MIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1048576\n"}, MIB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, MIB),
        ({"proc/self/cgroup": "0::/..\n", "memory.max": "1\n"}, None),
        (
            {
                "proc/self/cgroup": "3:memory:/a\n1:cpu:/b\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2097152\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            2 * MIB,
        ),
        ({}, None),
    ],
)
def test_memory_is_what_control_groups_allow(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    """The least of all that limit this process, in either version of the interface."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert capacity.memory(tmp_path) == (limit or whole)


def test_few_nodes_start_at_a_time() -> None:
    """The others wait for their turn, and all get one."""
    most_at_once = capacity.STARTS_PER_CPU * len(os.sched_getaffinity(0))
    lock, now, seen = threading.Lock(), 0, []

    def start() -> None:
        nonlocal now
        with capacity.slot(lambda: False):
            with lock:
                now += 1
                seen.append(now)
            time.sleep(0.05)
            with lock:
                now -= 1

    threads = [threading.Thread(target=start) for _ in range(3 * most_at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(seen) == 3 * most_at_once
    assert max(seen) == most_at_once


def test_who_is_cancelled_does_not_wait() -> None:
    """It goes on without a slot, to find out that it is cancelled."""
    most_at_once = capacity.STARTS_PER_CPU * len(os.sched_getaffinity(0))
    slots = [capacity.slot(lambda: False) for _ in range(most_at_once)]
    for slot in slots:
        slot.__enter__()
    with capacity.slot(lambda: True):
        pass
    for slot in slots:
        slot.__exit__(None, None, None)
