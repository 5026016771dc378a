"""Removes containers that are no nodes, and so belong to no cluster, when the process that started them is gone.

Run as ``python -m pytest_pidoc.containers.reaper SESSION OWNER``, in a session of its own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from pytest_pidoc.containers import daemon
from pytest_pidoc.containers.running import remove_session
from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.host import processes

__all__ = ["persist", "remove_containers", "watched"]

DAEMON_PATIENCE = 60.0  # seconds to try again when the Docker daemon does not answer


@contextlib.contextmanager
def watched(session: str) -> Iterator[None]:
    """Have containers removed, those with that session in their label, if this process is killed within the block."""
    process = processes.start_module(__name__, [session, processes.own()])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def remove_containers(session: str) -> None:
    """Remove the containers that have that session in their label.

    Raises
    ------
    EngineUnavailable
        The Docker daemon does not answer.
    """
    with contextlib.closing(daemon.connect()) as client:
        remove_session(session, client)


def persist(task: Callable[[], object]) -> None:
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


def _watch_containers(session: str, owner: str) -> None:
    """Wait until the owner is gone, and remove the session's containers."""
    processes.wait(owner, timeout=None)
    persist(lambda: remove_containers(session))


if __name__ == "__main__":
    _watch_containers(*sys.argv[1:])
