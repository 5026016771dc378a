"""A test run: whose clusters are its own, how they end, and how they outlive it."""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import PidocError
from pytest_pidoc.host import processes, records
from pytest_pidoc.lifecycle import reaper
from pytest_pidoc.lifecycle.record import ClusterRecord, keep
from pytest_pidoc.testrun.leases import Lease
from pytest_pidoc.vm.outage import Outage

__all__ = ["Run", "end_torn", "reached_by", "reap"]


@dataclass(frozen=True)
class Run:
    """A test run, of one process or of several.

    Attributes
    ----------
    name
        Tells it from all other runs.
    owner
        The identity of the process with which its clusters end.
    """

    name: str
    owner: str

    @classmethod
    def new(cls) -> Run:
        """Return a run of this process's own."""
        return cls(secrets.token_hex(8), processes.own())

    @property
    def is_own(self) -> bool:
        """Whether its clusters end with this process."""
        return self.owner == processes.own()

    def clusters(self) -> Iterator[ClusterRecord]:
        """Yield the records of its clusters, the oldest first."""
        for directory in records.cluster_directories():
            with contextlib.suppress(PidocError):  # it is just being made, or taken down
                record = ClusterRecord.read(directory)
                if record.run == self.name:
                    yield record

    def keep(self) -> list[str]:
        """Let its clusters outlive it; return the commands that reach their nodes and end them."""
        kept = []
        for record in list(self.clusters()):
            keep(record.directory)
            kept += reached_by(record.directory, [node.name for node in record.nodes])
        return kept


def end_torn(run: Run) -> None:
    """End those clusters of a run whose user has ended without giving them back, unless others still use them."""
    for record in list(run.clusters()):
        lease = Lease.to_end(record.directory)
        if lease is not None:
            with lease:
                if lease.is_torn:
                    reap(record.directory)


def reap(directory: Path) -> None:
    """End a cluster; if that cannot be done now, warn."""
    try:
        reaper.reap(directory)
    except PidocError as error:  # a later sweep tries again
        warnings.warn(f"{directory.name} could not be taken down: {error}", ResourceWarning, stacklevel=2)


def reached_by(directory: Path, nodes: list[str]) -> list[str]:
    """Return the commands that reach the nodes of a cluster that outlives the run, and the one that ends it.

    Of a node that is off, it says since when.
    """
    cluster = directory.name
    reached = []
    for node in nodes:
        off = Outage(directory / node).reason
        reached.append(f"pidoc ssh {cluster}/{node}" if off is None else f"{cluster}/{node} is {off}")
    return [*reached, f"pidoc down {cluster}"]
