"""Run tests on emulated Raspberry Pis.

pytest loads the plugin `pytest_pidoc.plugin` by itself. To use nodes without pytest::

    from pytest_pidoc import Cluster

    with Cluster.up(nodes=3, model="pi3-virt", engine="local") as cluster:
        print(cluster[0].run("uname -a").stdout)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pidoc.errors import (
    BenchmarkError,
    BenchmarkSlower,
    BootError,
    BootTimeout,
    ChecksumMismatch,
    ConsoleError,
    CopyError,
    DownloadError,
    EngineUnavailable,
    FaultError,
    ImageError,
    ImageInUse,
    KernelPanic,
    MonitorError,
    NodeDied,
    NodeRestarted,
    NoRoom,
    PidocError,
    PrepareError,
    RestoreFailed,
    SettingsError,
    WaitError,
    WaitTimeout,
)
from pytest_pidoc.version import __version__ as __version__

if TYPE_CHECKING:
    from pytest_pidoc.cluster import Cluster
    from pytest_pidoc.machines import MODELS, Machine
    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings
    from pytest_pidoc.vm.bringup import Timings

__all__ = [
    "MODELS",
    "BenchmarkError",
    "BenchmarkSlower",
    "BootError",
    "BootTimeout",
    "ChecksumMismatch",
    "Cluster",
    "ConsoleError",
    "CopyError",
    "DownloadError",
    "EngineUnavailable",
    "FaultError",
    "ImageError",
    "ImageInUse",
    "KernelPanic",
    "Machine",
    "MonitorError",
    "NoRoom",
    "Node",
    "NodeDied",
    "NodeRestarted",
    "PidocError",
    "PrepareError",
    "RestoreFailed",
    "Settings",
    "SettingsError",
    "Timings",
    "WaitError",
    "WaitTimeout",
]

_LAZY = {
    "Cluster": "cluster",
    "MODELS": "machines",
    "Machine": "machines",
    "Node": "node",
    "Settings": "settings.spec",
    "Timings": "vm.bringup",
}


def __getattr__(name: str) -> object:
    """Import the heavy modules on first use, since every pytest run loads the plugin."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"pytest_pidoc.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
