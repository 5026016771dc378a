"""Where running clusters are written down: one directory per cluster, which any process of the user can find.

::

    /tmp/pidoc-1000/          0700, this user's
        c-1f2e3d4c/           a cluster
            cluster.json      who owns it, what it is, where its nodes are
            pi-1/             a node: overlay, logs, sockets
        failed/               logs of starts that failed outside of a test
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
    "move_node",
    "new_directory",
    "read",
    "remove",
    "root",
    "write",
]

RECORD = "cluster.json"


def root() -> Path:
    """Return this user's directory of clusters; it is made if it is not there.

    Raises
    ------
    SettingsError
        Somebody else owns it, so nothing in it can be trusted.
    """
    path = Path(tempfile.gettempdir(), f"pidoc-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise SettingsError(f"{path} cannot be used: {error.strerror}.", tip="another TMPDIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SettingsError(f"{path} is not a directory of this user's alone.", tip="remove it, or another TMPDIR")
    return path


def new_directory() -> Path:
    """Make an empty directory for a cluster; its name is the cluster's."""
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
    """Return where logs of failed starts are kept when nobody said where."""
    return root() / "failed"


def write(directory: Path, record: dict[str, Any]) -> None:
    """Write ``cluster.json``: whole or not at all."""
    draft = directory / f".{RECORD}.{os.getpid()}"
    draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draft.replace(directory / RECORD)


def read(directory: Path) -> dict[str, Any]:
    """Read ``cluster.json``, as far as it takes to end the cluster: who owns it, and what runs it.

    Raises
    ------
    PidocError
        There is no such cluster, or its record does not say that.
    """
    try:
        record: Any = documents.read(directory / RECORD)
    except (OSError, ValueError) as error:
        raise PidocError(f"There is no cluster {directory.name}: {error}.", tip="pidoc ps") from error
    if not _is_record(record):
        raise PidocError(f"The record of the cluster {directory.name} is damaged.", look=str(directory / RECORD))
    return dict(record)


def move_node(directory: Path, name: str, endpoint: dict[str, Any]) -> None:
    """Write down where a node of a cluster is now."""
    record = read(directory)
    for entry in record["nodes"]:
        if entry["name"] == name:
            entry["endpoint"] = {**endpoint, "directory": str(endpoint["directory"])}
    write(directory, record)


def remove(directory: Path) -> None:
    """Remove a cluster's directory; it may be gone."""
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
