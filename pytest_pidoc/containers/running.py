"""The containers that a daemon runs for us: labelled, found by their labels, and removed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pidoc.containers.daemon import NODE_LABEL, PROCESS_LABEL, SESSION_LABEL, daemon_errors
from pytest_pidoc.host import processes

if TYPE_CHECKING:
    import docker

__all__ = ["NodeContainer", "node_containers", "own_labels", "remove", "remove_session"]

REMOVE_TIMEOUT = 30  # seconds to wait at most for a removal that is already in progress


@dataclass(frozen=True)
class NodeContainer:
    """A container of ours, as the daemon lists it.

    Attributes
    ----------
    id
        The container's id: the handle of the node's endpoint.
    cluster, node
        The cluster and the node that it runs. ``node`` is empty for others, such as the probe of the host's speed.
    status
        Docker's word for its state: ``running``, ``exited`` ...
    created
        When it was made, in seconds since 1970.
    maker
        The process that made it: see `pytest_pidoc.host.processes.identify`.
    """

    id: str
    cluster: str
    node: str
    status: str
    created: int
    maker: str


def own_labels(session: str, node: str = "") -> dict[str, str]:
    """Return the labels of a new container of this process's: of a node of the cluster *session*, or of no node."""
    return {SESSION_LABEL: session, PROCESS_LABEL: processes.own()} | ({NODE_LABEL: node} if node else {})


def node_containers(client: docker.DockerClient, cluster: str | None = None) -> list[NodeContainer]:
    """Return the containers of one cluster, or of all, including those that have ended.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer.
    """
    label = SESSION_LABEL if cluster is None else f"{SESSION_LABEL}={cluster}"
    with daemon_errors("list containers"):
        found = client.api.containers(all=True, filters={"label": [label]})
    return [
        NodeContainer(
            id=entry["Id"],
            cluster=entry["Labels"][SESSION_LABEL],
            node=entry["Labels"].get(NODE_LABEL, ""),
            status=entry["State"],
            created=entry["Created"],
            maker=entry["Labels"].get(PROCESS_LABEL, ""),
        )
        for entry in found
    ]


def remove_session(cluster: str, client: docker.DockerClient) -> int:
    """Kill and remove every container of *cluster*; return their number.

    It repeats the search until none is found: the daemon might still be creating one when its owner is killed.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer, or cannot remove a container.
    """
    removed = 0
    while containers := node_containers(client, cluster):
        for container in containers:
            remove(client, container.id)
        removed += len(containers)
    return removed


def remove(client: docker.DockerClient, container: str) -> None:
    """Kill and remove the container with that id or name; return when it no longer exists.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer, or cannot remove it.
    """
    import docker.errors

    with daemon_errors("remove a container"):
        try:
            client.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # "removal is already in progress"
                raise
            with contextlib.suppress(docker.errors.NotFound):
                client.api.wait(container, condition="removed", timeout=REMOVE_TIMEOUT)
