"""Which engine runs the nodes."""

from __future__ import annotations

import shutil

from pytest_pidoc.errors import EngineUnavailable

__all__ = ["INSTALL_DOCKER", "INSTALL_QEMU", "choose"]

INSTALL_QEMU = "install QEMU (apt-get install qemu-system-arm qemu-utils)"
INSTALL_DOCKER = "start Docker (apt-get install docker.io; systemctl start docker)"


def choose(engine: str) -> str:
    """Return ``docker`` or ``local`` for ``auto``, and else *engine* itself if it can be used here.

    ``auto`` is Docker if its daemon answers within 2 s, else local if QEMU is installed.

    Raises
    ------
    EngineUnavailable
        What was asked for is not here; the tip says how to get it.
    """
    if engine == "local":
        _require_qemu()
        return engine
    from pytest_pidoc.containers import daemon

    try:
        daemon.connect().close()
    except EngineUnavailable as error:
        if engine == "docker":
            raise
        if _has_qemu():
            return "local"
        raise EngineUnavailable(
            f"There is no engine to run a node: {error.what.rstrip('.')}, and qemu-system-aarch64 is not installed.",
            tip=f"{INSTALL_QEMU}, or {INSTALL_DOCKER}; pidoc doctor says more",
        ) from error
    return "docker"


def _has_qemu() -> bool:
    return all(shutil.which(program) for program in ("qemu-system-aarch64", "qemu-img"))


def _require_qemu() -> None:
    if not _has_qemu():
        raise EngineUnavailable(
            "The engine local needs QEMU, and qemu-system-aarch64 or qemu-img is not installed.",
            tip=f"{INSTALL_QEMU}, or use --pidoc-engine=docker",
        )
