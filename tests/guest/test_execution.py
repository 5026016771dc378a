"""Programs on channels of their own, over a real SSH server in this process."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from support import SshServer, eventually

from pytest_pidoc.guest.execution import Execution

if TYPE_CHECKING:
    import fabric

    from pytest_pidoc.node import Node


@pytest.fixture
def connection(node: Node) -> fabric.Connection:
    return node.connection


def finished(execution: Execution) -> Execution:
    assert eventually(lambda: execution.ended)
    execution.drain()
    return execution


def test_output_is_there_while_the_program_runs(connection: fabric.Connection) -> None:
    """Both streams apart, and the process id of the script's shell."""
    execution = Execution(connection, "echo out; echo err >&2; read line; echo $$ $line")
    assert eventually(lambda: (execution.stdout, execution.stderr) == ("out\n", "err\n"))
    assert execution.status is None
    assert not execution.ended

    execution.send(b"more\n", lambda: None)

    assert finished(execution).stdout == f"out\n{execution.pid} more\n"
    assert execution.status == 0
    execution.close()


def test_what_comes_before_the_script_is_kept_apart(connection: fabric.Connection) -> None:
    """Sudo's and a profile's words are no output of the program."""
    execution = finished(Execution(connection, "echo out", prepare="echo careful >&2; printf welcome", root=True))

    assert (execution.stdout, execution.stderr) == ("out\n", "")
    assert execution.preamble == "as root:\nwelcomecareful\n"


def test_preparation_that_fails(connection: fabric.Connection) -> None:
    """The script does not begin."""
    execution = finished(Execution(connection, "echo out", prepare="echo no >&2; exit 9"))

    assert (execution.pid, execution.stdout, execution.preamble, execution.status) == (None, "", "no\n", 9)


@pytest.mark.parametrize("name", ["ILL", "TERM", "KILL"])
def test_signal_that_ends_the_program(connection: fabric.Connection, name: str) -> None:
    """The status is the one that a shell reports."""
    execution = finished(Execution(connection, f"kill -{name} $$"))

    assert execution.status == 128 + getattr(signal, f"SIG{name}")


def test_connection_that_breaks(connection: fabric.Connection, server: SshServer) -> None:
    """The program has ended as far as can be told, and its status is unknown."""
    server.die = server.hang_up
    execution = Execution(connection, "echo out; sleep 60")
    assert eventually(lambda: execution.stdout)
    server.hang_up()

    assert finished(execution).status is None
    assert execution.stdout == "out\n"
    execution.close()


def test_output_that_the_caller_fetches(connection: fabric.Connection) -> None:
    """In pieces of the size that it wants, to its end."""
    execution = Execution(connection, "seq 100000", prepare="echo welcome", collect=False)
    taken = []
    while data := execution.receive(1000, lambda: None):
        taken.append(data)

    assert max(map(len, taken)) == 1000
    assert b"".join(taken) == b"".join(b"%d\n" % number for number in range(1, 100001))
    assert finished(execution).status == 0


def test_program_that_takes_no_input(connection: fabric.Connection) -> None:
    """Sending to it ends when it has."""
    execution = Execution(connection, "exit 4")
    with pytest.raises(OSError, match=r"ended|closed"):
        execution.send(bytes(1 << 26), lambda: None)

    assert finished(execution).status == 4
