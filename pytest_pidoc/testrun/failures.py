"""What is known when a test or a start fails: said in the test's report, and kept beside the logs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.host import processes
from pytest_pidoc.lifecycle import artifacts, facts
from pytest_pidoc.node import UP
from pytest_pidoc.qemu.refusals import refusals
from pytest_pidoc.testrun import leases
from pytest_pidoc.values.files import QEMU_LOG

if TYPE_CHECKING:
    from pytest_pidoc.cluster import Cluster
    from pytest_pidoc.guest.serial_log import SerialLog

__all__ = ["Held", "keep_after_crash", "keep_of_test", "properties_of_test", "serial_lines"]

SERIAL_LINES = 30  # of each node, in the report of a failed test
ENOUGH = 10  # lines since the test got the node: with fewer, those before it are shown, too
PROGRAM_LINES = 30  # of each program that runs in a node
GOT = "--- the test got the node here ---"
PROPERTY = "pidoc_artifacts"


@dataclass(frozen=True)
class Held:
    """A cluster that a test has.

    Attributes
    ----------
    cluster
        The cluster.
    sizes
        How many bytes the serial log of each node, by its name, had when the test got it.
    """

    cluster: Cluster
    sizes: Mapping[str, int]

    @classmethod
    def now(cls, cluster: Cluster) -> Held:
        """Return what a test that gets the cluster now has."""
        return cls(cluster, {node.name: node.serial_log.size() for node in cluster})


def keep_of_test(test: str, when: str, held: Sequence[Held], base: Path) -> list[tuple[str, str]]:
    """Keep the evidence of a failed test in its folder in *base*, and return sections for its report.

    Parameters
    ----------
    test
        The test's id: ``tests/test_a.py::test_b``.
    when
        Which part of it failed: ``setup``, ``call`` or ``teardown``.
    held
        The clusters that it had.
    base
        Where evidence is kept.

    Returns
    -------
    Titles and texts.
    """
    target, clusters = base / artifacts.folder_name(test), [each.cluster for each in held]
    known = [
        facts.of_cluster(
            cluster.directory,
            cluster.spec,
            cluster,
            faults=cluster.faults.all(),
            switch_is_gone=cluster.switch_is_gone,
        )
        for cluster in clusters
    ]
    report = artifacts.Report(when, test=test, clusters=known)
    try:
        artifacts.keep([cluster.directory for cluster in clusters], target, report)
        place = f"The rest is in {target}"
    except OSError as error:
        place = f"The rest could not be kept in {target}: {error.strerror}"
    sections = []
    for each, said in zip(held, known, strict=True):
        cluster = each.cluster
        if down := [f"{node['name']}: {node['state']}" for node in said["nodes"] if node["state"] != UP]:
            sections.append((f"nodes of {cluster.name} that are not up", "\n".join(down)))
        if cluster.switch_is_gone:
            sections.append((f"LAN of {cluster.name}", "The switch has ended: no node reaches another."))
        if faults := cluster.faults.all():
            sections.append((f"faults of {cluster.name}", "\n".join(map(str, faults))))
        for node in cluster:
            for program in node.programs:
                state = "running" if program.running else f"status {program.status}"
                last = f"{program.stdout}{program.stderr}".rstrip().splitlines()[-PROGRAM_LINES:]
                text = "\n".join([f"$ {program.command}", *last])
                sections.append((f"{node.name} started program ({state}), last lines", text))
            if refused := refusals(node.directory / QEMU_LOG):
                sections.append((f"connections to the host that {node.name} was refused", _described(refused)))
            tail = serial_lines(node.serial_log, each.sizes[node.name]) or "(nothing)"
            sections.append((f"{node.name} serial log, last lines", f"{tail}\n\n{place}"))
    return sections


def serial_lines(log: SerialLog, size: int) -> str:
    """Return the last lines since the log had *size* bytes; if they are few, those before them and a line between."""
    new = log.tail(SERIAL_LINES, start=size)
    if (count := len(new.splitlines())) >= ENOUGH or not (old := log.tail(SERIAL_LINES - count, end=size)):
        return new
    return "\n".join(filter(None, (old, GOT, new)))


def properties_of_test(test: str, base: Path) -> list[tuple[str, str]]:
    """Return what a report in JUnit's XML says of a failed test: which folder in *base* has its evidence.

    Parameters
    ----------
    test
        The test's id.
    base
        Where evidence is kept.

    Returns
    -------
    A name and a path; nothing if the evidence could not be kept.
    """
    kept = artifacts.Folder.read(base / artifacts.folder_name(test))
    return [(PROPERTY, str(kept.path))] if kept is not None and kept.run == processes.own() else []


def _described(refused: Sequence[str]) -> str:
    """Return where a guest was not let, and how it is let there."""
    remedy = "use host_access=True (engine local) if the test needs them; the guest sees 127.0.0.1 as 10.0.2.2"
    return "\n".join([*refused, f"Try: {remedy}"])


def keep_after_crash(error: object, clusters: Iterable[Path], base: Path) -> None:
    """Keep the evidence of tests whose process ended while they had clusters, each in its folder in *base*.

    Parameters
    ----------
    error
        How that process ended.
    clusters
        Directories of all that it could have had.
    base
        Where evidence is kept.
    """
    for directory in clusters:
        for test in leases.abandoned_by(directory):
            target = base / artifacts.folder_name(test)
            try:
                artifacts.keep([directory], target, artifacts.Report("call", test=test, error=str(error)))
            except OSError as failure:
                warnings.warn(
                    f"The evidence of {test} could not be kept in {target}: {failure.strerror}",
                    ResourceWarning,
                    stacklevel=2,
                )
