"""Progress on pytest's own terminal, past its capturing."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:
    import pytest

__all__ = ["PytestProgress"]

QUIET = 5.0  # seconds that a start can take before it is worth a line, without -v


class PytestProgress(Progress):
    """Writes a line per step: with ``-v`` always, without once it takes long, with ``-q`` and in workers never."""

    def __init__(self, config: pytest.Config) -> None:
        manager = config.pluginmanager
        self._reporter = manager.get_plugin("terminalreporter")
        self._capture = manager.get_plugin("capturemanager")
        self._quiet = {0: QUIET}.get(config.get_verbosity(), 0.0)
        if config.get_verbosity() < 0:
            self._reporter = None
        self._start = time.monotonic()

    def step(self, text: str) -> None:
        """Write the seconds since the start, and *text*."""
        elapsed = time.monotonic() - self._start
        if self._reporter is None or self._capture is None or elapsed < self._quiet:
            return
        with self._capture.global_and_fixture_disabled():
            self._reporter.ensure_newline()
            self._reporter.write_line(f"pidoc: [{elapsed:6.1f} s] {text}")

    def anew(self) -> Progress:
        """Return one for a job that reports only once it takes long."""
        another = copy.copy(self)
        another._quiet, another._start = 0.0, time.monotonic()
        return another
