"""What all tests share: pytester, and gates for what a machine lacks."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "qemu: boots emulated machines with this host's QEMU")
    config.addinivalue_line("markers", "docker: needs a Docker daemon")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what is in the background. The tests send this signal to what they start themselves.
        signal.signal(signal.SIGINT, signal.default_int_handler)


#: Integration tests that wait longest for what .ci/guests builds meanwhile.
LAST = ("test_raspios_boot.py", "test_announced_board.py", "test_boards.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _rank(item.path))  # what fails soonest comes first
    missing = {"qemu": _missing_qemu(), "docker": _missing_docker(items)}
    for item in items:
        for name, reason in missing.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def _rank(path: Path) -> int:
    if path.parent.name != "integration":
        return 0
    return 2 + LAST.index(path.name) if path.name in LAST else 1


def _missing_qemu() -> str | None:
    return None if shutil.which("qemu-system-aarch64") else "qemu-system-aarch64 is not installed"


def _missing_docker(items: list[pytest.Item]) -> str | None:
    if not any(item.get_closest_marker("docker") for item in items):
        return None
    from pytest_pidoc.containers import daemon
    from pytest_pidoc.errors import EngineUnavailable

    try:
        daemon.connect().close()
    except EngineUnavailable as error:
        return error.what
    return None
