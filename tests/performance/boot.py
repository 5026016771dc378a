"""The subject ``boot``: cold boots of an untuned Debian, of the default image, and of three nodes of it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.bench.start import PLAIN
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["BootReport", "BootRow", "boot"]


@dataclass(frozen=True)
class BootRow:
    """Cold boots of one kind.

    Attributes
    ----------
    what
        What was booted.
    nodes
        How many at a time.
    banner, ready, down
        Seconds of each run: until the slowest node's SSH banner, until a command had run on every node, and to take
        the cluster down.
    """

    what: str
    nodes: int
    banner: tuple[float, ...]
    ready: tuple[float, ...]
    down: tuple[float, ...]


@dataclass(frozen=True)
class BootReport(Report):
    """How long cold boots take."""

    rows: tuple[BootRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: every run, and the ratios of the medians."""
        return {**super().to_dict(), "ratios": self.ratios()}

    def ratios(self) -> dict[str, float]:
        """Return the median banner against the untuned guest's, and the median start of three nodes against one's."""
        plain, one, _ = (statistics.median(row.banner) for row in self.rows)
        _, one_ready, three_ready = (statistics.median(row.ready) for row in self.rows)
        return {"banner, tuned / untuned": one / plain, "ready, three / one": three_ready / one_ready}

    def body(self) -> str:
        """Return a row for each kind of boot."""
        rows = [
            (row.what, row.nodes, *(spread(times) for times in (row.banner, row.ready, row.down))) for row in self.rows
        ]
        head = ("what", "nodes", "banner s", "ready s", "down s")
        return table(head, rows)

    def notes(self) -> list[str]:
        """Return where it was, and the ratios."""
        ratios = ", ".join(f"{name} {value:.2f}" for name, value in self.ratios().items())
        return [self.where(), f"{SPREAD}; ratios: {ratios}"]


def boot(settings: Settings, *, runs: int, progress: Progress) -> BootReport:
    """Boot the untuned guest, the tuned one, and three nodes of that, one after the other, *runs* times.

    Raises
    ------
    PidocError
        A boot failed.
    """
    settings = replace(settings, start="cold")
    kinds = (
        ("untuned Debian", replace(settings, image=PLAIN, nodes=1)),
        (settings.image, replace(settings, nodes=1)),
        (settings.image, replace(settings, nodes=3)),
    )
    times: list[list[tuple[float, float, float]]] = [[] for _ in kinds]
    engine = qemu = ""
    for number in range(1, runs + 1):
        for (what, kind), measured in zip(kinds, times, strict=True):
            progress.step(f"run {number} of {runs}: {kind.nodes} x {what}")
            cluster = Cluster.up(settings=kind)
            with cluster:
                engine = cluster.engine.name
                qemu = str(cluster.engine.qemu_version(cluster[0].machine.binary))
                banner, ready = cluster.timings.banner, cluster.timings.ready
                start = time.monotonic()
            measured.append((banner, ready, time.monotonic() - start))
    rows = tuple(
        BootRow(what, kind.nodes, *(tuple(column) for column in zip(*measured, strict=True)))
        for (what, kind), measured in zip(kinds, times, strict=True)
    )
    return BootReport(host(), engine, qemu, rows)
