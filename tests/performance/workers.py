"""The subject ``workers``: how much faster tests that wait run with pytest-xdist, and whether two shared a node."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["Use", "WorkersReport", "overlaps", "workers"]

TESTS = 40
WORKERS = 4
WAIT = 2.0  # seconds that each test waits

#: How the tests ask for nodes, by the name in the report.
MARKERS = {"a node each": "nodes=1", "one cluster of 4, shared": "nodes=4, shared=True"}

_TEST_FILE = """
import json, os, pathlib, time
import pytest

@pytest.mark.parametrize("number", range({tests}))
@pytest.mark.pidoc({marker})
def test_waits(number, pi_cluster):
    pi, began = pi_cluster[number % len(pi_cluster)], time.monotonic()
    pi.run("sleep {wait}")
    use = [pi_cluster.name, pi.name, began, time.monotonic()]
    pathlib.Path(os.environ["USES"], str(number)).write_text(json.dumps(use))
"""


@dataclass(frozen=True)
class Use:
    """One test's use of a node: when it began and ended, on one clock, in seconds."""

    cluster: str
    node: str
    began: float
    ended: float


@dataclass(frozen=True)
class WorkersRow:
    """Runs of one kind.

    Attributes
    ----------
    marker
        How the tests ask for nodes.
    alone, shared_out
        Seconds of each run of pytest, from its start to its end: without workers, and with them.
    overlaps
        Pairs of tests that had the same node at the same time, in the runs with workers.
    """

    marker: str
    alone: tuple[float, ...]
    shared_out: tuple[float, ...]
    overlaps: int

    @property
    def ratio(self) -> float:
        """The time with workers as a multiple of the time without: the ratio of the medians."""
        return statistics.median(self.shared_out) / statistics.median(self.alone)


@dataclass(frozen=True)
class WorkersReport(Report):
    """How long tests take with workers and without. The runs of pytest choose their QEMU: `qemu` is empty."""

    model: str
    rows: tuple[WorkersRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**super().to_dict(), "ratios": [row.ratio for row in self.rows]}

    def body(self) -> str:
        """Return a row for each kind of run."""
        head = ("nodes", "-n 0 s", f"-n {WORKERS} s", "ratio", "two tests on one node")
        rows = [
            (row.marker, spread(row.alone), spread(row.shared_out), f"{row.ratio:.2f}", row.overlaps)
            for row in self.rows
        ]
        return table(head, rows)

    def notes(self) -> list[str]:
        """Return where it was, and what the figures are."""
        return [
            f"{self.where(self.model)}; {TESTS} tests that wait {WAIT:g} s each",
            f"{SPREAD}; the seconds are those of whole pytest runs",
        ]


def workers(settings: Settings, *, runs: int, progress: Progress) -> WorkersReport:
    """Run tests that only wait, without workers and with them.

    Raises
    ------
    SettingsError
        pytest-xdist is not installed.
    PidocError
        A run of pytest failed.
    """
    if importlib.util.find_spec("xdist") is None:
        raise SettingsError("The subject workers needs pytest-xdist.", tip="run pip install pytest-xdist")
    rows = []
    for name, marker in MARKERS.items():
        alone, shared_out, found = [], [], 0
        for number in range(1, runs + 1):
            progress.step(f"{name}: run {number} of {runs}")
            alone.append(_run(settings, marker, 0)[0])
            seconds, uses = _run(settings, marker, WORKERS)
            shared_out.append(seconds)
            found += overlaps(uses)
        rows.append(WorkersRow(name, tuple(alone), tuple(shared_out), found))
    return WorkersReport(host(), settings.engine, "", settings.model, tuple(rows))


def overlaps(uses: Sequence[Use]) -> int:
    """Return how many pairs of *uses* are of one node at the same time."""
    return sum(
        (one.cluster, one.node) == (other.cluster, other.node) and one.began < other.ended and other.began < one.ended
        for one, other in combinations(uses, 2)
    )


def _run(settings: Settings, marker: str, number: int) -> tuple[float, list[Use]]:
    """Run the tests with *number* workers; return the seconds that it took, and which test had which node."""
    with tempfile.TemporaryDirectory(prefix="pidoc-bench-") as folder:
        uses = Path(folder, "uses")
        uses.mkdir()
        Path(folder, "test_waits.py").write_text(
            _TEST_FILE.format(tests=TESTS, marker=marker, wait=WAIT), encoding="utf-8"
        )
        arguments = ["-q", "-p", "no:cacheprovider", "--rootdir", folder, "-n", str(number)]
        options = ["--pidoc-engine", settings.engine, "--pidoc-model", settings.model]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, *options],
            cwd=folder,
            env={**os.environ, "USES": str(uses), "PIDOC_CACHE_DIR": str(settings.cache_dir), "PIDOC_REQUIRE": "yes"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise PidocError("The tests that only wait have failed.", evidence=done.stdout[-2000:])
        return seconds, [Use(*json.loads(path.read_text(encoding="utf-8"))) for path in uses.iterdir()]
