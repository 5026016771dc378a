"""Ends clusters whose owner is gone: a process that waits for the owner's end, and a sweep for what it missed.

Run as ``python -m pytest_pidoc.lifecycle.reaper CLUSTER-DIRECTORY``: one process per cluster, in a session of its own,
so that neither a Ctrl-C nor the death of the owner's process group reaches it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_pidoc.engines import cgroups
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.host import processes, records

__all__ = ["end_nodes", "reap", "reap_run", "start", "sweep"]

LOOK_INTERVAL = 1.0  # seconds between two looks whether the cluster still exists
STARTING = 0.3  # seconds from a starter's death until what it has just forked carries the cluster's name
YOUNG = 60.0  # seconds that a directory without a record may be one that is just being made


def start(directory: Path, *, holding: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start the reaper of the cluster in *directory*; it keeps the descriptors *holding* open as long as it lives."""
    return processes.start_module(__name__, [str(directory)], holding=holding)


def end_nodes(directory: Path) -> None:
    """End every process and every container that carries the cluster's name.

    Raises
    ------
    EngineUnavailable
        The cluster ran on Docker, and its daemon does not answer now.
    """
    name = directory.name
    # Twice, since a starter that was killed may have left a process that is just being executed.
    while found := list(processes.of_cluster(name)):
        for identity in found:
            processes.kill(identity)
        for identity in found:
            processes.wait(identity, timeout=10)
    for node in _folders(directory):
        with contextlib.suppress(OSError):  # a group that still has processes stays
            cgroups.remove(node)
    if _may_have_containers(directory):
        from pytest_pidoc.containers.reaper import remove_containers

        remove_containers(name)


def reap(directory: Path) -> None:
    """End what `end_nodes` ends, then remove the cluster's directory.

    Raises
    ------
    EngineUnavailable
        As for `end_nodes`; the directory stays, so that the next sweep tries again.
    """
    end_nodes(directory)
    records.remove(directory)


def reap_run(run: str, owner: str) -> None:
    """Reap the clusters that the processes of a test run share, as far as they have not been kept.

    Raises
    ------
    PidocError
        One of them could not be ended; the others are.
    """
    failure: PidocError | None = None
    for directory in records.cluster_directories():
        try:
            record = records.read(directory)
        except PidocError:  # it is just being taken down
            continue
        if (record.get("run"), record["owner"]) == (run, owner):
            try:
                reap(directory)
            except PidocError as error:
                failure = error
    if failure is not None:
        raise failure


def sweep() -> list[str]:
    """Reap every cluster of this user whose owner is gone; return their names."""
    swept = []
    for directory in records.cluster_directories():
        if not _is_orphan(directory):
            continue
        try:
            reap(directory)
        except EngineUnavailable:
            continue  # the daemon is down: the containers are too, and a later sweep removes them
        swept.append(directory.name)
    return swept


def _is_orphan(directory: Path) -> bool:
    try:
        owner = records.read(directory)["owner"]
    except PidocError:
        try:
            return time.time() - directory.stat().st_mtime > YOUNG
        except FileNotFoundError:
            return False
    return owner is not None and not processes.is_alive(owner)


def _may_have_containers(directory: Path) -> bool:
    """Tell whether the cluster could have containers; nothing is started before the record is written."""
    if not (directory / records.RECORD).exists():
        return False
    try:
        return bool(records.read(directory)["engine"] != "local")
    except PidocError:
        return True


def _folders(directory: Path) -> list[Path]:
    try:
        return [entry for entry in directory.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []


def _watch_cluster(directory: Path) -> None:
    """Wait until the owner is gone or the cluster is, and end what is left."""
    try:
        owner: str | None = records.read(directory)["owner"]
    except PidocError:
        if directory.exists():
            raise
        return  # it was taken down before this process had started
    ended = False
    while not ended:
        if owner is None:  # somebody has let it outlive its owner
            return
        ended = processes.wait(owner, timeout=LOOK_INTERVAL)
        if not directory.exists():
            return
        with contextlib.suppress(PidocError):
            now = records.read(directory)["owner"]
            owner, ended = now, ended and now == owner
    time.sleep(STARTING)
    from pytest_pidoc.containers.reaper import persist

    persist(lambda: reap(directory))


if __name__ == "__main__":
    _watch_cluster(Path(sys.argv[1]))
