"""Which engine runs the nodes."""

from __future__ import annotations

import shutil

from pytest_pidoc.errors import EngineUnavailable

__all__ = ["INSTALL_QEMU", "choose"]

PROGRAMS = ("qemu-system-aarch64", "qemu-img")

INSTALL_QEMU = "install QEMU (apt-get install qemu-system-arm qemu-utils)"


def choose(engine: str, *, host_access: bool = False) -> str:
    """Return ``docker`` or ``local`` for ``auto``, else *engine* itself if it is available on this host.

    ``auto`` is Docker if its daemon answers within 2 s, else local if QEMU is installed. With *host_access*, which only
    the engine local can give, it is local.

    Raises
    ------
    EngineUnavailable
        The engine is not available; the tip says how to install it.
    """
    if engine == "local" or host_access:
        _require_qemu("use --pidoc-engine=docker" + " without host_access" * host_access)
        return "local"
    from pytest_pidoc.containers import daemon

    try:
        daemon.connect().close()
    except EngineUnavailable as error:
        if engine == "docker":
            error.tip = f"{error.tip}, or use --pidoc-engine=local"
            raise
        if not (missing := _missing()):
            return "local"
        raise EngineUnavailable(
            f"No engine can run nodes: {error.what.rstrip('.')}, and the engine local lacks {missing}.",
            evidence=error.evidence,
            tip=f"{INSTALL_QEMU}; or {error.tip}; run pidoc doctor for details",
        ) from error
    return "docker"


def _missing() -> str:
    """Name QEMU's programs that are not installed; empty if none is missing."""
    return " and ".join(program for program in PROGRAMS if not shutil.which(program))


def _require_qemu(otherwise: str) -> None:
    if missing := _missing():
        raise EngineUnavailable(
            f"The engine local requires QEMU, but {missing} cannot be found on PATH.",
            tip=f"{INSTALL_QEMU}, or {otherwise}",
        )
