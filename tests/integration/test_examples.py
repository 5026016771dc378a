"""The test files that the documentation shows: run as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.qemu

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize(
    ("example", "workers"),
    [
        *(pytest.param(path, (), id=path.stem) for path in sorted(EXAMPLES.glob("test_*.py"))),
        pytest.param(EXAMPLES / "test_scopes.py", ("-n2",), id="test_scopes-n2"),
    ],
)
def test_example_passes(example: Path, workers: tuple[str, ...], cache_dir: Path, tmp_path: Path) -> None:
    """None of its tests fails; one may be skipped where this machine lacks what it needs."""
    environment = {name: value for name, value in os.environ.items() if name != "PIDOC_REQUIRE"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", f"--rootdir={EXAMPLES}", example]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'tests'}", "-c", os.devnull, *workers],
        env={**environment, "PIDOC_CACHE_DIR": str(cache_dir), "PIDOC_ENGINE": "local"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_benchmark_catches_a_slow_down(cache_dir: Path, tmp_path: Path) -> None:
    """The suite makes a baseline, meets it, and fails when the program is compiled to do 2 % more."""
    if not all(map(shutil.which, ("aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc"))):
        pytest.skip("there are no compilers for ARM")
    suite = shutil.copytree(EXAMPLES / "benchmark", tmp_path / "suite")
    environment = {**os.environ, "PIDOC_CACHE_DIR": str(cache_dir), "PIDOC_ENGINE": "local", "PIDOC_REQUIRE": "yes"}

    def run(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-c", os.devnull, *arguments]
        done = subprocess.run(
            [*command, f"--rootdir={suite}", f"--basetemp={tmp_path / 'tests'}", suite],
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.stdout + done.stderr

    assert "2 passed" in (made := run("--pidoc-benchmark-update")), made
    assert "2 passed" in (met := run()), met
    slower = run(FLAGS="-DSLOWER")
    assert "2 failed" in slower, slower
    assert slower.count("BenchmarkSlower") >= 2, slower
