"""What the tests of steps share: nodes on real SSH servers in this process."""

from __future__ import annotations

from tests.group.conftest import cluster, homes

__all__ = ["cluster", "homes"]
