"""The public surface, and what importing it costs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

import pytest_pidoc
from pytest_pidoc import errors

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("docker", "fabric", "filelock", "invoke", "paramiko", "pexpect", "requests")

SURFACE = {
    *errors.__all__,
    "Cluster",
    "MODELS",
    "Machine",
    "Node",
    "Settings",
    "Timings",
}


def imported_by(code: str) -> list[str]:
    """Return which heavy libraries a new Python has imported after *code*."""
    script = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_surface_is_what_was_promised() -> None:
    """Every name of the contract is offered, and no other."""
    assert set(pytest_pidoc.__all__) == SURFACE


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_name_can_be_had(name: str) -> None:
    """What is offered is there."""
    assert getattr(pytest_pidoc, name).__doc__ if name != "MODELS" else pytest_pidoc.MODELS


def test_unknown_name_is_an_attribute_error() -> None:
    """Lazy import does not invent names."""
    with pytest.raises(AttributeError, match="module 'pytest_pidoc' has no attribute 'Clutser'"):
        pytest_pidoc.Clutser  # noqa: B018


def test_version_is_the_distributions() -> None:
    """The package and its metadata agree."""
    assert pytest_pidoc.__version__ == version("pytest-pidoc")


@pytest.mark.parametrize("module", ["pytest_pidoc", "pytest_pidoc.plugin", "pytest_pidoc.cli"])
def test_import_is_light(module: str) -> None:
    """A test run without a Pi, and ``pidoc --help``, pay for no library that they do not use."""
    assert imported_by(f"import {module}") == []


def test_whole_run_without_a_pi_is_light(tmp_path: Path) -> None:
    """Not only the import, also the plugin's hooks leave the libraries alone."""
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    code = f"import pytest, sys\nassert pytest.main(['--quiet', {str(tmp_path)!r}]) == 0\nprint()"

    assert imported_by(code) == []


def test_heavy_library_is_imported_when_it_is_used() -> None:
    """The check above can see what it looks for."""
    assert "pexpect" in imported_by("import pytest_pidoc.guest.console")


@pytest.mark.parametrize(
    "name", ["cluster", "node", "plugin", "cli", "settings.table", "settings.spec", "errors", "machines"]
)
def test_modules_offer_what_they_have(name: str) -> None:
    """Every name of a module's ``__all__`` exists in it."""
    module = importlib.import_module(f"pytest_pidoc.{name}")

    assert [each for each in module.__all__ if not hasattr(module, each)] == []


def test_core_does_without_pytest() -> None:
    """Clusters can be used where pytest is not installed."""
    modules = ("cluster", "cli", "commands.parser", "commands.doctor", "commands.demo", "bench.start")
    code = "import sys\nsys.modules['pytest'] = None\n" + "".join(f"import pytest_pidoc.{name}\n" for name in modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr == ""
