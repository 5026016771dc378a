"""What is known of a cluster and its nodes, as plain data: for ``--json``, and for the report beside kept logs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import PidocError

if TYPE_CHECKING:
    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import ClusterSpec
    from pytest_pidoc.values.faults import Fault

__all__ = ["of_cluster", "of_node"]


def of_cluster(
    directory: Path,
    spec: ClusterSpec,
    nodes: Sequence[Node] = (),
    *,
    faults: Iterable[Fault] = (),
    switch_is_gone: bool = False,
) -> dict[str, Any]:
    """Return the facts about a cluster.

    Parameters
    ----------
    directory
        The cluster's; its name is the cluster's.
    spec
        What was asked for.
    nodes
        Those that are ready.
    faults
        What went wrong on purpose.
    switch_is_gone
        Whether the process has ended that connects the nodes.
    """
    return {
        "cluster": directory.name,
        "directory": str(directory),
        "spec": {**spec.to_json(), "image_password": "***"},
        "switch": "ended" if switch_is_gone else "running" if any(node.lan_address for node in nodes) else None,
        "faults": [
            {"what": fault.what, "began": fault.began, "ended": fault.ended, "text": str(fault)} for fault in faults
        ],
        "nodes": [of_node(node) for node in nodes],
    }


def of_node(node: Node) -> dict[str, Any]:
    """Return where a node is, how it is, and how it started."""
    return {
        "name": node.name,
        "host": node.host,
        "port": node.port,
        "state": _state(node),
        "ssh": node.ssh_command,
        "timings": dataclasses.asdict(node.timings),
    }


def _state(node: Node) -> str:
    try:
        return node.state
    except PidocError as error:  # the daemon does not answer: the other facts are wanted all the same
        return f"unknown: {error.what}"
