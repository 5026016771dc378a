"""The demonstration: boots three Pis and runs a small test file on them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_pidoc.commands import doctor
from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.lifecycle.provision import provision
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress

__all__ = ["TEST_FILE", "run"]

TEST_FILE = Path(__file__).with_name("test_three_pis.py")


def run(settings: Settings, progress: Progress) -> int:
    """Install what is missing, build or reuse the image, run the test file, and return pytest's exit status.

    Raises
    ------
    PidocError
        This user cannot install a missing package, or the image cannot be built.
    """
    packages = doctor.missing_packages(docker=_uses_docker(settings))
    if packages:
        progress.step(f"installing {', '.join(packages)}")
        doctor.install(packages, settings.cache_dir / "logs" / "install.log")
    provision(settings.spec(), settings, progress).close()
    progress.step("running pytest")
    chosen = {"PIDOC_ENGINE": settings.engine, "PIDOC_CACHE_DIR": str(settings.cache_dir), "PIDOC_REQUIRE": "yes"}
    with tempfile.TemporaryDirectory(prefix="pidoc-demo-") as directory:
        copy = Path(directory, TEST_FILE.name)
        copy.write_bytes(TEST_FILE.read_bytes())
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", directory, copy.name]
        return subprocess.run(command, cwd=directory, env={**os.environ, **chosen}, check=False).returncode


def _uses_docker(settings: Settings) -> bool:
    """Tell whether the engine will be Docker, for which the host needs no QEMU of its own."""
    if settings.engine == "local":
        return False
    from pytest_pidoc.containers import daemon

    try:
        daemon.connect().close()
    except EngineUnavailable:
        return False
    return True
