"""The records of running clusters: one directory per cluster, which all processes of the user can find.

::

    /tmp/pidoc-1000/          0700, this user's
        c-1f2e3d4c/           a cluster
            cluster.json      who owns it, what it is, where its nodes are
            pi-1/             a node: overlay, logs, sockets
        failed/               logs of starts that failed outside a test
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.host import documents, processes

__all__ = [
    "RECORD",
    "cluster_directories",
    "failed_directory",
    "handle_of",
    "move_node",
    "new_directory",
    "read",
    "remove",
    "root",
    "write",
]

RECORD = "cluster.json"


def root() -> Path:
    """Return this user's directory of clusters; create it if it does not exist.

    Raises
    ------
    SettingsError
        It cannot be created, or another user can write to it, so its content cannot be trusted.
    """
    path = Path(tempfile.gettempdir(), f"pidoc-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise SettingsError(
            f"Cannot use the directory {path} for running clusters: {error.strerror}.",
            tip="set TMPDIR to a directory that you can write to",
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SettingsError(
            f"{path} must be a directory that belongs to you and has mode 0700.",
            tip="remove it, or set TMPDIR to another directory",
        )
    return path


def new_directory() -> Path:
    """Create an empty directory for a cluster; the directory's name is the cluster's name."""
    while True:
        path = root() / f"c-{secrets.token_hex(4)}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path


def cluster_directories() -> Iterator[Path]:
    """Yield the directory of every cluster of this user, oldest first."""
    found = (path for path in root().glob("c-*") if path.is_dir() and not path.is_symlink())
    yield from sorted(found, key=lambda path: (_age(path), path.name))


def failed_directory() -> Path:
    """Return the directory for logs of failed starts outside a test."""
    return root() / "failed"


def write(directory: Path, record: dict[str, Any]) -> None:
    """Write ``cluster.json`` atomically."""
    documents.write(directory / RECORD, json.dumps(record, indent=2) + "\n")


def read(directory: Path) -> dict[str, Any]:
    """Read ``cluster.json`` and check what is needed to end the cluster: its owner and its engine.

    Raises
    ------
    PidocError
        The cluster does not exist, or its record is damaged.
    """
    try:
        record: Any = documents.read(directory / RECORD)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PidocError(
            f"The cluster {directory.name} does not exist.", tip="run pidoc ps to list the clusters"
        ) from error
    except (OSError, ValueError) as error:
        raise PidocError(
            f"Cannot read the record of the cluster {directory.name}: {error}.",
            look=str(directory / RECORD),
            tip=f"run pidoc down {directory.name}",
        ) from error
    if not _is_record(record):
        raise PidocError(
            f"The record of the cluster {directory.name} is damaged: its owner or engine is missing or invalid.",
            look=str(directory / RECORD),
            tip=f"run pidoc down {directory.name}",
        )
    return dict(record)


def move_node(directory: Path, name: str, endpoint: dict[str, Any]) -> None:
    """Record the new endpoint of a node of a cluster."""
    record = read(directory)
    for entry in record["nodes"]:
        if entry["name"] == name:
            entry["endpoint"] = {**endpoint, "directory": str(endpoint["directory"])}
    write(directory, record)


def handle_of(directory: Path, name: str) -> str | None:
    """Return what runs a node of a cluster, a process or a container; ``None`` if the record does not tell."""
    try:
        record = read(directory)
        (handle,) = (str(entry["endpoint"]["handle"]) for entry in record["nodes"] if entry["name"] == name)
    except (PidocError, LookupError, TypeError, ValueError):  # it is just being made, taken down, or is damaged
        return None
    return handle if record["engine"] != "local" or processes.is_identity(handle) else None


def remove(directory: Path) -> None:
    """Remove a cluster's directory, if it still exists."""
    shutil.rmtree(directory, ignore_errors=True)


def _is_record(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("engine"), str):
        return False
    owner = value.get("owner", "")  # None: nobody
    return owner is None or processes.is_identity(owner)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
