"""Ends clusters whose owner is gone: a process that waits for the owner's end, and a sweep for what it missed.

Run as ``python -m pytest_pidoc.lifecycle.reaper CLUSTER-DIRECTORY``: one process per cluster, in a session of its own,
so that neither a Ctrl-C nor the death of the owner's process group reaches it. With ``--containers SESSION OWNER`` in
place of the directory it does the same for containers that are no nodes, and so have no directory.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_pidoc.engines import cgroups
from pytest_pidoc.errors import EngineUnavailable, PidocError
from pytest_pidoc.host import processes, records

__all__ = ["end_nodes", "reap", "reap_run", "start", "sweep", "watched"]

LOOK_INTERVAL = 1.0  # seconds between two looks whether the cluster still exists
DAEMON_PATIENCE = 60.0  # seconds to try again when the Docker daemon does not answer
STARTING = 0.3  # seconds from a starter's death until what it has just forked carries the cluster's name
YOUNG = 60.0  # seconds that a directory without a record may be one that is just being made


def start(directory: Path, *, holding: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start the reaper of the cluster in *directory*; it keeps the descriptors *holding* open as long as it lives."""
    return _start([str(directory)], holding)


@contextlib.contextmanager
def watched(session: str) -> Iterator[None]:
    """Have containers removed, those with that session in their label, if this process is killed within the block."""
    process = _start(["--containers", session, processes.own()])
    try:
        yield
    finally:
        process.kill()
        process.wait()


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
        with contextlib.suppress(OSError):  # a group of which something is left stays, as that does
            cgroups.remove(node)
    if _may_have_containers(directory):
        _remove_containers(name)


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


def _start(arguments: list[str], holding: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest_pidoc.lifecycle.reaper", *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=holding,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


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
    """Tell whether the cluster may have containers; nothing is started before the record is written."""
    if not (directory / records.RECORD).exists():
        return False
    try:
        return bool(records.read(directory)["engine"] != "local")
    except PidocError:
        return True


def _remove_containers(session: str) -> None:
    from pytest_pidoc.containers import daemon
    from pytest_pidoc.containers.running import remove_session

    with contextlib.closing(daemon.connect()) as client:
        remove_session(session, client)


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
    _persist(lambda: reap(directory))


def _watch_containers(session: str, owner: str) -> None:
    """Wait until the owner is gone, and remove the session's containers."""
    processes.wait(owner, timeout=None)
    _persist(lambda: _remove_containers(session))


def _persist(task: Callable[[], object]) -> None:
    """Do what takes the Docker daemon's help, again and again while that does not answer."""
    give_up = time.monotonic() + DAEMON_PATIENCE
    while True:
        try:
            task()
        except EngineUnavailable:
            if time.monotonic() > give_up:
                return
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    if sys.argv[1] == "--containers":
        _watch_containers(*sys.argv[2:])
    else:
        _watch_cluster(Path(sys.argv[1]))
