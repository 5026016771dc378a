"""Starting programs, as far as it needs no guest."""

from __future__ import annotations

import pytest
from support import StandInEngine

from pytest_pidoc.errors import NodeDied, SettingsError
from pytest_pidoc.node import Node


@pytest.mark.parametrize("command", ["", "  ", None, 1, ["./server"], "./server\0"])
def test_no_command(node: Node, command: str) -> None:
    """The error says what a command is."""
    with pytest.raises(SettingsError, match=r"The command must be a .*string, not .*\nTry: pass a shell command"):
        node.start(command)


def test_node_that_has_died(node: Node, engine: StandInEngine) -> None:
    """The error says how, and nothing is left to stop."""
    engine.reason = "QEMU was killed by signal 9"
    with pytest.raises(NodeDied, match=r"pi-1 died before it ran '\./server': QEMU was killed by signal 9"):
        node.start("./server")

    assert node.programs == ()
