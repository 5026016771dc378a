"""The commands about clusters: ``up``, ``ps``, ``ssh``, ``console``, ``down``."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.commands.output import print_json, terminal_progress
from pytest_pidoc.errors import NodeDied, PidocError, SettingsError
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import facts, reaper
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.text import duration, table
from pytest_pidoc.vm.outage import Outage

if TYPE_CHECKING:
    from pytest_pidoc.lifecycle.record import ClusterRecord
    from pytest_pidoc.node import Node

__all__ = ["console", "down", "known_records", "ps", "ssh", "up"]


def up(options: argparse.Namespace, settings: Settings) -> int:
    """Start nodes that outlive this command."""
    from pytest_pidoc.cluster import Cluster

    cluster = Cluster.up(settings=settings, progress=terminal_progress(), keep=True)
    if options.json:
        print_json(facts.of_cluster(cluster.directory, cluster.spec, cluster, faults=cluster.faults.all()))
    else:
        for node in cluster:
            print(f"{cluster.name}/{node.name}  {node.ssh_command}")
    cluster.close()
    return 0


def ps(options: argparse.Namespace, settings: Settings) -> int:
    """List clusters and nodes."""
    from pytest_pidoc.cluster import Cluster

    found = []
    for record in known_records():
        directory, owner = record.directory, record.owner
        alive = owner is not None and processes.is_alive(owner)
        entry: dict[str, Any] = {
            "cluster": directory.name,
            "engine": record.engine,
            "model": record.spec.model,
            "age": time.time() - record.created,
            "owner": None if owner is None else int(owner.partition(":")[0]) if alive else "gone",
            "nodes": [],
        }
        if record.nodes:
            try:
                with contextlib.closing(Cluster.attach(directory)) as cluster:
                    entry["nodes"] = [facts.of_node(node) for node in cluster]
            except PidocError as error:  # its image or its daemon is gone; the other clusters are unaffected
                print(f"pidoc: {directory.name}: {error}", file=sys.stderr)
                unknown = {"host": "", "port": "", "state": "unknown"}
                entry["nodes"] = [{"name": node.name, **unknown} for node in record.nodes]
        found.append(entry)
    if options.json:
        print_json(found)
        return 0
    rows = [
        (
            f"{entry['cluster']}/{node['name']}",
            entry["engine"],
            entry["model"],
            duration(entry["age"]),
            "pidoc down" if entry["owner"] is None else _owner(entry["owner"]),
            f"{node['host']}:{node['port']}",
            node["state"],
        )
        for entry in found
        for node in entry["nodes"] or [{"name": "*", "host": "", "port": "", "state": "starting"}]
    ]
    print(table(("node", "engine", "model", "age", "ended by", "ssh", "state"), rows))
    return 0


def ssh(options: argparse.Namespace, settings: Settings) -> int:
    """Replace this process by ``ssh`` to a node."""
    node = _node(options.node)
    command = [*shlex.split(node.ssh_command), *options.words]
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 # ssh takes over the terminal
    except FileNotFoundError:
        raise PidocError("ssh is not installed.", tip="run apt-get install openssh-client") from None


def console(options: argparse.Namespace, settings: Settings) -> int:
    """Connect the terminal to a node's serial console."""
    from pytest_pidoc.commands.passthrough import pass_through
    from pytest_pidoc.host import sockets
    from pytest_pidoc.values.files import CONSOLE_SOCKET

    node = _node(options.node)
    try:
        connection = sockets.connect(node.directory / CONSOLE_SOCKET)
    except OSError as error:
        raise PidocError(
            f"Cannot connect to the console of {node.name}: {error}.", tip="run pidoc ps to see whether the node is up"
        ) from error
    with connection:
        print(f"Connected to {node.name}; Ctrl-] leaves, Enter shows the prompt.", file=sys.stderr)
        pass_through(connection)
    return 0


def down(options: argparse.Namespace, settings: Settings) -> int:
    """End clusters; if one cannot be ended, end the others and return 1."""
    known = {directory.name: directory for directory in records.cluster_directories()}
    for name in options.names:
        if name not in known:
            raise SettingsError(f"The cluster {shown(name)} does not exist.", tip="run pidoc ps to list the clusters")
    if options.names:
        chosen = [known[name] for name in options.names]
    else:
        chosen = [path for path in known.values() if options.all or _is_nobodys(path)]
    failed = False
    for directory in chosen:
        try:
            reaper.reap(directory)
        except PidocError as error:  # its daemon does not answer
            failed = True
            print(f"pidoc: {directory.name}: {error}", file=sys.stderr)
        else:
            print(f"{directory.name} is down")
    for name in reaper.sweep():
        print(f"{name} is down: its owner had ended")
    return int(failed)


def known_records() -> list[ClusterRecord]:
    """Return every cluster's record, oldest first; print which records cannot be used."""
    from pytest_pidoc.lifecycle.record import ClusterRecord

    found = []
    for directory in records.cluster_directories():
        try:
            found.append(ClusterRecord.read(directory))
        except PidocError as error:
            if (directory / records.RECORD).exists():  # else it is just being made, or just ended
                print(f"pidoc: {error}", file=sys.stderr)
    return found


def _node(name: str) -> Node:
    """Return the node that ``[CLUSTER/]NODE`` names, unless it is off."""
    from pytest_pidoc.cluster import Cluster

    wanted, _, node_name = name.rpartition("/")
    candidates = [
        record.directory
        for record in known_records()
        if wanted in ("", record.directory.name) and node_name in [node.name for node in record.nodes]
    ]
    if not candidates:
        raise SettingsError(
            f"The node {shown(name)} does not exist.", tip="run pidoc ps to list the nodes, or pidoc up to start one"
        )
    if len(candidates) > 1:
        names = ", ".join(f"{directory.name}/{node_name}" for directory in candidates)
        raise SettingsError(f"Several clusters have a node {shown(name)}.", tip=f"use one of {names}")
    node = Cluster.attach(candidates[0])[node_name]
    if off := Outage(node.directory).reason:
        attached = f'Cluster.attach("{candidates[0].name}")["{node_name}"]'
        raise NodeDied(f"{node_name} is {off}.", tip=f"start it from Python with {attached}.power_on()")
    return node


def _owner(pid: int | str) -> str:
    """Return the name of the process that ends a cluster: ``process 4711 (pytest)``."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"


def _is_nobodys(directory: Path) -> bool:
    """Tell whether a cluster has no owner: it was started by ``pidoc up``, or kept after a run."""
    try:
        return records.read(directory)["owner"] is None
    except PidocError:  # it is just being made, or just ended
        return False
