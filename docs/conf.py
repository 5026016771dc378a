"""Sphinx configuration. Build: ``sphinx-build -W -n docs docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import pytest_pidoc
from pytest_pidoc.engines import docker, local
from pytest_pidoc.images.debian import second_stage
from pytest_pidoc.machines import MIB
from pytest_pidoc.qemu import speed

project = "pytest-pidoc"
author = "The pytest-pidoc developers"
copyright = author  # noqa: A001 # Sphinx's name
release = version = pytest_pidoc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
extensions += ["pidoc_docstrings", "pidoc_reference"]  # in _ext
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pytest-pidoc {version}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist", "substitution"]
myst_substitutions = {  # figures of the code that the text names
    "boot_least": f"{speed.LEAST:g}",
    "boot_margin": f"{speed.MARGIN:g}",
    "container_allowance": f"{docker.QEMU_ALLOWANCE // MIB} MiB",
    "container_processes": str(docker.PIDS),
    "container_start": f"{docker.START_TIMEOUT:g} s",
    "local_start": f"{local.START_TIMEOUT:g} s",
    "stage_limit": f"{second_stage.LIMIT:g} s",
    "stage_silence": f"{second_stage.SILENCE:g} s",
}
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False  # keeps "nodes, model, image" together, which share a description

# Names of other projects, and of modules here that are not part of the public interface. No inventory of another
# project is downloaded: the documentation builds without a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(fabric|Result|GroupResult|invoke|paramiko|pexpect|SocketSpawn|SocketSpawn\[str\])(\..*)?"),
    (r"py:.*", r"(pathlib|collections|subprocess|socket|threading|argparse|typing|types|abc|builtins|dataclasses)\..*"),
    (r"py:.*", r"(Any|Path|Mapping|Sequence|Iterable|Iterator|Callable|socket)"),
    (r"py:.*", r"(str|int|float|bool|bytes|dict|list|tuple|object|None|Exception|OSError|TracebackType|BaseException)"),
    (r"py:.*", r"(pytest_pidoc\.(engines|containers|lifecycle|steps|qemu\.program|values\.(progress|deadline)).*)"),
    (r"py:.*", r"(Deadline|Endpoint|Engine|Step|Launch|Progress|QemuVersion|Provision|provision\..*)"),
]
