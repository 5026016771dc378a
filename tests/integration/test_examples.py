"""The test files that the documentation shows: run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.qemu

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("test_*.py")), ids=lambda path: path.stem)
def test_example_passes(example: Path, cache_dir: Path, tmp_path: Path) -> None:
    """None of its tests fails; one may be skipped where this machine lacks what it needs."""
    environment = {name: value for name, value in os.environ.items() if name != "PIDOC_REQUIRE"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", f"--rootdir={EXAMPLES}", example]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'tests'}", "-c", os.devnull],
        env={**environment, "PIDOC_CACHE_DIR": str(cache_dir), "PIDOC_ENGINE": "local"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
