"""Runs the script, to check that it works."""

import subprocess
import sys
from pathlib import Path


def test_the_script_runs(pidoc_image):
    script = Path(__file__).with_name("without_pytest.py")
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    assert done.stdout.count("aarch64") == 3
