"""What is left of a cluster: nothing, if all is well."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pytest_pidoc.containers import daemon
from pytest_pidoc.containers.running import node_containers
from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.host import processes, records

__all__ = ["leftovers"]


def leftovers(cluster: str) -> list[str]:
    """Return what there is of a cluster: processes, containers, control groups, its directory."""
    found = list(processes.of_cluster(cluster))
    found += [str(group) for group in Path("/sys/fs/cgroup").rglob(f"pidoc-{cluster}-*")]
    if (records.root() / cluster).exists():
        found.append(str(records.root() / cluster))
    try:
        client = daemon.connect()
    except EngineUnavailable:  # so there are no containers
        return found
    with contextlib.closing(client):
        return found + [container.id for container in node_containers(client, cluster)]
