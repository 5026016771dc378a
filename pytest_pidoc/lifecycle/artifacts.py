"""Evidence: the logs of nodes, copied to where they outlive their cluster, and never more than a bounded amount.

::

    BASE/TEST-HASH/report.json      says that the folder is ours, which files of it are, and what was known then
    BASE/TEST-HASH/cluster.json, switch.log, pi-1/serial.log, pi-1/qemu.log, pi-1/qemu.command

Other files in these folders, and other folders beside them, are left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pytest_pidoc.host import documents, processes, records
from pytest_pidoc.lan.lan import SWITCH_LOG
from pytest_pidoc.values.files import QEMU_COMMAND, QEMU_LOG, SERIAL_LOG
from pytest_pidoc.version import __version__

__all__ = ["LIMITS", "REPORT", "Folder", "Limits", "Report", "folder_name", "folders", "folders_of_run", "keep"]

REPORT = "report.json"
OF_CLUSTER = (records.RECORD, SWITCH_LOG)
OF_NODE = (SERIAL_LOG, QEMU_LOG, QEMU_COMMAND)

_TOOL = "pytest-pidoc"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How much evidence is kept, in bytes.

    Attributes
    ----------
    log
        Of one file; of a longer one the first quarter of that and the end are kept.
    total
        Of all folders in one place; beyond that the oldest go.
    """

    log: int = 8 << 20
    total: int = 256 << 20


LIMITS = Limits()


@dataclass(frozen=True)
class Report:
    """What ``report.json`` says of a failure, beside which files are kept.

    Attributes
    ----------
    failed
        What has failed: ``setup``, ``call`` or ``teardown`` of the test, or ``start``.
    test
        The test's id; empty if nodes were started outside of a test.
    error
        Why, if the test's own report does not say it.
    clusters
        What was known of each cluster; nothing if the process that had them ended.
    """

    failed: str
    test: str = ""
    error: str = ""
    clusters: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Folder:
    """A folder with evidence.

    Attributes
    ----------
    path
        Where it is.
    kept
        When it was written, in seconds since 1970.
    run
        The identity of the process that wrote it.
    files
        What in it is ours, by name.
    """

    path: Path
    kept: float
    run: str
    files: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Folder | None:
        """Return the evidence in a folder; ``None`` if it is not ours."""
        try:
            report = documents.read(path / REPORT)
            if report["tool"] != _TOOL or not all(map(_leads_inside, report["files"])):
                return None
            return cls(path, float(report["kept"]), str(report["run"]), tuple(report["files"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    @property
    def size(self) -> int:
        """The size in bytes of what is ours."""
        return sum(path.stat().st_size for path in self._paths() if path.is_file())

    def remove(self) -> None:
        """Remove what is ours, and the folders that are empty then.

        Raises
        ------
        OSError
            It cannot be removed.
        """
        paths = list(self._paths())
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in sorted({parent for path in paths for parent in path.parents}, reverse=True):
            if folder.is_relative_to(self.path):
                with contextlib.suppress(OSError):  # somebody else's file is in it
                    folder.rmdir()

    def _paths(self) -> Iterator[Path]:
        """Yield our files, the report last: what is left of an interrupted removal is still known as ours."""
        here = self.path.resolve()
        for name in (*self.files, REPORT):
            path = self.path / name
            if path.parent.resolve().is_relative_to(here):  # and not behind a symbolic link
                yield path


def keep(clusters: Sequence[Path], target: Path, report: Report, *, limits: Limits = LIMITS) -> Path:
    """Copy what clusters and their nodes have said to the folder *target*; what else is beside it stays bounded.

    Parameters
    ----------
    clusters
        Directories of clusters. Those of several get a folder each in *target*.
    target
        The folder; evidence of another run in it is replaced, that of this run added to.
    report
        What ``report.json`` says.
    limits
        How much is kept, of one log and in all.

    Returns
    -------
    The target.

    Raises
    ------
    OSError
        It cannot be written.
    """
    run = processes.own()
    former = Folder.read(target)
    if former is not None and former.run != run:
        former.remove()
        former = None
    sources = dict(_sources(clusters))
    names = [*sources, *(name for name in (former.files if former else ()) if name not in sources)]
    target.mkdir(parents=True, exist_ok=True)
    content = {"tool": _TOOL, "version": __version__, "run": run, "kept": time.time(), **asdict(report), "files": names}
    try:  # before the files: so they are known as ours, whatever happens now
        documents.write(target / REPORT, json.dumps(content, indent=2, default=str) + "\n")
    except BaseException:
        with contextlib.suppress(OSError):  # there is evidence of before
            target.rmdir()
        raise
    for name, source in sources.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # it went meanwhile
            _copy(source, target / name, limits.log)
    _bound(target, limits.total)
    return target


def folder_name(test: str) -> str:
    """Return a name for a test's folder, which no other test has.

    ``tests/test_a.py::test_b[1-x]`` becomes ``tests-test_a.py-test_b-1-x-3296e278``.
    """
    readable = re.sub(r"[^\w.]+", "-", test, flags=re.ASCII).strip("-.")[:140] or "test"
    return f"{readable}-{hashlib.sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def folders(base: Path) -> list[Folder]:
    """Return the evidence in *base*, oldest first."""
    try:
        found = [folder for path in base.iterdir() if (folder := Folder.read(path)) is not None]
    except OSError:
        return []
    return sorted(found, key=lambda folder: folder.kept)


def folders_of_run(base: Path, run: str) -> list[Path]:
    """Return the folders in *base* that a process has written and that are still there, oldest first.

    Parameters
    ----------
    base
        Where they are.
    run
        The identity of the process.
    """
    return [folder.path for folder in folders(base) if folder.run == run]


def _sources(clusters: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield what is to be copied by its name in the target."""
    for cluster in clusters:
        nodes = sorted(path for path in cluster.glob("*") if path.is_dir())
        files = [cluster / name for name in OF_CLUSTER]
        files += [node / name for node in nodes for name in OF_NODE]
        for path in files:
            if path.is_file():
                yield str(path.relative_to(cluster if len(clusters) == 1 else cluster.parent)), path


def _copy(source: Path, target: Path, limit: int) -> None:
    """Copy a log; of one that is longer than *limit* bytes the beginning and the end."""
    with source.open("rb") as log, target.open("wb") as copy:
        size = os.fstat(log.fileno()).st_size  # it may grow while it is read
        if size <= limit:
            _pump(log, copy, size)
            return
        head, left_out = limit // 4, size - limit
        _pump(log, copy, head)
        copy.write(f"\n[pytest-pidoc: {left_out} of {size} bytes are left out here]\n".encode())
        log.seek(head + left_out)
        _pump(log, copy, limit - head)


def _pump(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0 and (chunk := source.read(min(size, _CHUNK))):
        target.write(chunk)
        size -= len(chunk)


def _bound(newest: Path, total: int) -> None:
    """Remove the oldest evidence beside *newest* until all of it is *total* bytes at most."""
    found = folders(newest.parent)
    sizes = {folder.path: folder.size for folder in found}
    for folder in found:
        if sum(sizes.values()) <= total:
            return
        if folder.path != newest:
            with contextlib.suppress(OSError):  # another process does it, too
                folder.remove()
            del sizes[folder.path]


def _leads_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
