"""How all commands print."""

from __future__ import annotations

import json
import sys

from pytest_pidoc.values.progress import TerminalProgress

__all__ = ["print_json", "terminal_progress"]


def terminal_progress() -> TerminalProgress:
    """Return the progress that prints the steps of a command to standard error."""
    return TerminalProgress(sys.stderr)


def print_json(value: object) -> None:
    """Print a value for a script."""
    print(json.dumps(value, indent=2))
