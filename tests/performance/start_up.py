"""What the plugin costs a run of pytest that uses no node: pairs of starts with it and without it (``-p no:pidoc``).

Run it on a quiet host, with the Python whose pytest is measured: ``python tests/performance/start_up.py``. All starts
run the same empty test. Each side of a pair is the fastest of some starts, made alternately: single starts vary by
more than what is measured. For the same reason other plugins that are installed are left out of both.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

PACKAGE = "pytest_pidoc"
PLUGINS = ("pytest_pidoc.plugin", "pytest_pidoc.pi_benchmark.hooks")
OTHERS = sorted({each.name for each in entry_points(group="pytest11")} - {"pidoc"})
QUIET = ("-q", "-p", "no:cacheprovider", *(word for name in OTHERS for word in ("-p", f"no:{name}")))
WITH, WITHOUT = (), ("-p", "no:pidoc")
PAIRS, STARTS = 9, 7
IMPORT_TIME = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


class Start(NamedTuple):
    """What one run of pytest took, in milliseconds."""

    wall: float
    cpu: float


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"how many pairs (default: {PAIRS})")
    parser.add_argument(
        "--starts", type=int, default=STARTS, metavar="N", help=f"starts on each side of a pair (default: {STARTS})"
    )
    options = parser.parse_args()
    pairs = options.pairs
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "test_nothing.py").write_text("def test_nothing(): pass\n")
        for extra in (WITH, WITHOUT):
            start(directory, extra)  # compiles what the others read
            imports(directory, extra)
        measured = [pair(directory, options.starts) for _ in range(pairs)]
        imported = _fastest([imports(directory, WITH) for _ in range(options.starts)])
        alone = imports(directory, WITHOUT)
    print(f"the plugin's share of a pytest start without a node, in ms: medians of {pairs} pairs")
    for name in Start._fields:
        with_, without = ([getattr(each[side], name) for each in measured] for side in (0, 1))
        shares = [first - second for first, second in zip(with_, without, strict=True)]
        print(
            f"  {name:5} {statistics.median(shares):6.1f}  (from {min(shares):.1f} to {max(shares):.1f})"
            f"  with {statistics.median(with_):.1f}, without {statistics.median(without):.1f}"
        )
    own = {name: spent for name, spent in imported.items() if name.partition(".")[0] == PACKAGE}
    others = {name: spent for name, spent in imported.items() if name not in own and name not in alone}
    print(f"its imports, in ms of each module itself: {sum(own.values()):.1f} in {len(own)} modules of its own")
    for name, spent in sorted(own.items(), key=lambda each: -each[1]):
        print(f"  {spent:6.1f}  {name}")
    print(f"and {sum(others.values()):.1f} in {len(others)} others: {', '.join(sorted(others)) or 'no module'}")


def pair(directory: str, starts: int) -> tuple[Start, Start]:
    """Return the fastest start with the plugin and the fastest one without it, of *starts* each, made alternately."""
    found: dict[Sequence[str], list[Start]] = {WITH: [], WITHOUT: []}
    for number in range(starts):
        for extra in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
            found[extra].append(start(directory, extra))
    with_, without = (Start(*map(min, zip(*each, strict=True))) for each in found.values())
    return with_, without


def start(directory: str, extra: Sequence[str]) -> Start:
    """Run pytest once."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command(directory, extra), stdout=subprocess.DEVNULL, env=compiled(directory), cwd=directory
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))} failed with status {process.returncode}.")  # type: ignore[arg-type]
    return Start(1000 * wall, 1000 * (usage.ru_utime + usage.ru_stime))


def compiled(directory: str) -> dict[str, str]:
    """Return an environment in which Python keeps what it has compiled, as it does for a user: beneath *directory*."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": f"{directory}/compiled"}


def imports(directory: str, extra: Sequence[str]) -> dict[str, float]:
    """Return how long each module that pytest imports took by itself, in milliseconds.

    Python's figures leave out what ``importlib`` is asked for by name, as pytest asks for its plugins: so the package's
    plugins are imported before.
    """
    arguments = [*QUIET, *extra, "--rootdir", directory, directory]
    plugins = "" if extra == WITHOUT else f"import {', '.join(PLUGINS)}; "
    code = f"import pytest; {plugins}raise SystemExit(pytest.main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=compiled(directory),
        cwd=directory,
        check=True,
    )
    return {each[2]: int(each[1]) / 1000 for each in IMPORT_TIME.finditer(done.stderr.decode())}


def _fastest(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the least time that each module took in any of several runs."""
    return {name: min(run[name] for run in runs if name in run) for name in runs[0]}


def command(directory: str, extra: Sequence[str]) -> list[str]:
    """Return the command line of a run of pytest that collects one test which does nothing."""
    return [sys.executable, "-m", "pytest", *QUIET, *extra, "--rootdir", directory, directory]


if __name__ == "__main__":
    main()
