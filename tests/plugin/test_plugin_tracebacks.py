"""Tracebacks that the user of a node sees: of a real Fabric, over a real SSH server in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fabric  # noqa: F401 # before pytester, which forgets what is imported in a test; OpenSSL's cannot be twice
import pytest
from support import SshServer, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_pidoc.node import Node

    Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, node: Node) -> Run:
    """Run a test file whose fixture ``own_pi`` is the node."""

    class Given:
        @pytest.fixture
        def own_pi(self) -> Node:
            return node

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(*arguments, plugins=[Given()])

    return run


FAILS = """
    def test_fails(own_pi):
        answer(own_pi)

    def answer(pi):
        pi.run("echo the last words; exit 42")
    """


def test_the_error_follows_the_line_of_the_test(run: Run) -> None:
    """Functions of the test are shown, and nothing of what is below them."""
    result = run(FAILS)

    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*def answer(pi):", '>*pi.run("echo the last words; exit 42")', "E *UnexpectedExit: *"]
    )
    result.stdout.fnmatch_lines(["E *the last words*", "*test_the_error*.py:5: UnexpectedExit", "*short test summary*"])
    assert "invoke/runners.py" not in text
    assert "pytest_pidoc/node.py" not in text
    failure = text[text.index("= FAILURES =") : text.index("= short test summary info =")]
    assert len(failure.splitlines()) < 40


def test_all_is_shown_if_asked_for(run: Run) -> None:
    """By pytest's own option."""
    text = run(FAILS, "--full-trace").stdout.str()

    assert "runners.py" in text
    assert "node.py" in text


def test_what_caused_the_error(run: Run, engine: StandInEngine, server: SshServer) -> None:
    """Each error of the chain is named, without its own frames."""

    def die() -> None:
        engine.reason = "QEMU was killed by signal 9"
        server.hang_up()

    server.when("dying", die)
    result = run(
        """
        def test_dies(own_pi):
            try:
                own_pi.run("exit 7")
            finally:
                own_pi.run("touch dying; sleep 60")
        """
    )

    text = result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            '>*own_pi.run("exit 7")',
            "E *UnexpectedExit: *",
            "During handling of the above exception*",
            '>*own_pi.run("touch dying; sleep 60")',
            "E *NodeDied: pi-1 died while it ran 'touch dying; sleep 60': QEMU was killed by signal 9*",
        ]
    )
    assert "runners.py" not in text
    assert "vm.py" not in text


def test_a_function_of_the_test_that_is_called_from_below(run: Run) -> None:
    """It is shown; if its error is not one of a node, all frames are."""
    source = """
        import io

        class Torn(io.BytesIO):
            def read(self, size=-1):
                raise {error}("the disk is torn")

        def test_put(own_pi):
            own_pi.put(Torn(), "file")
        """
    text = run(source.format(error="OSError")).stdout.str()
    assert 'own_pi.put(Torn(), "file")' in text
    assert 'raise OSError("the disk is torn")' in text
    assert "copies.py" not in text
    assert "sftp_client.py" not in text

    text = run(source.format(error="KeyError")).stdout.str()
    assert "copies.py" in text
    assert "sftp_client.py" in text


def test_failures_without_nodes(run: Run) -> None:
    """They are as pytest shows them."""
    result = run(
        """
        import paramiko

        def test_paramiko():
            paramiko.RSAKey.from_private_key_file("/nowhere")
        """
    )

    result.assert_outcomes(failed=1)
    assert "pkey.py" in result.stdout.str()
