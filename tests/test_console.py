"""The serial console, against a peer on a real socket."""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING

import pexpect
import pytest
from support import unix_server

from pytest_pidoc.console import Console
from pytest_pidoc.errors import ConsoleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def login(connection: socket.socket) -> None:
    """Ask for a name, greet, and go on listening."""
    with connection.makefile("rwb", buffering=0) as stream:
        stream.write(b"\r\nDebian GNU/Linux 12 pi-1 ttyAMA0\r\n\r\npi-1 login: ")
        name = stream.readline().strip()
        stream.write(b"Welcome, " + name + b"!\r\n$ ")
        stream.readline()


@pytest.fixture
def console(short_path: Path) -> Iterator[Console]:
    with (
        unix_server(short_path / "console.sock", login) as path,
        Console.connect(path, name="pi-1", timeout=5) as opened,
    ):
        yield opened


def test_conversation(console: Console) -> None:
    """What is sent arrives, and what comes back is matched."""
    console.expect("login: ")
    console.sendline("pi")
    console.expect(r"Welcome, (\w+)!")

    assert console.match[1] == "pi"


def test_before_is_what_was_skipped(console: Console) -> None:
    """Text before the match is kept, as pexpect does."""
    console.expect_exact("login: ")

    assert "Debian GNU/Linux 12" in console.before


def test_what_does_not_come_is_an_error_with_the_last_lines(console: Console) -> None:
    """The error names the node, what was waited for, and what was seen instead."""
    console.expect("Debian")
    with pytest.raises(ConsoleError, match="The console of pi-1 was silent before it showed 'Password'") as caught:
        console.expect("Password", timeout=0.05)

    assert "pi-1 login:" in caught.value.evidence


def test_exact_text_that_does_not_come_is_an_error(console: Console) -> None:
    """Plain texts are treated as patterns are."""
    with pytest.raises(ConsoleError, match="was silent before it showed 'Password' or '#'"):
        console.expect_exact(["Password", "#"], timeout=0.05)


def test_timeout_among_the_patterns_is_the_callers(console: Console) -> None:
    """Who names TIMEOUT handles it, as pexpect promises."""
    assert console.expect(["Password", pexpect.TIMEOUT], timeout=0.05) == 1


def test_end_among_the_patterns_is_the_callers(console: Console) -> None:
    """Who names EOF handles it."""
    console.send("pi\n\n")

    assert console.expect(["Password", pexpect.EOF]) == 1


def test_console_that_is_closed_is_an_error(console: Console) -> None:
    """A node that ends while something is waited for is said at once."""
    console.send("pi\n\n")
    with pytest.raises(ConsoleError, match="The console of pi-1 was closed before it showed 'never'") as caught:
        console.expect("never", timeout=60)

    assert "Welcome, pi!" in caught.value.evidence


def test_bytes_that_are_no_text(short_path: Path) -> None:
    """Noise on the line is replaced, not raised."""
    with (
        unix_server(short_path / "c", lambda connection: connection.sendall(b"\xff\xfe ready")) as path,
        Console.connect(path, timeout=5) as console,
    ):
        console.expect("ready")

        assert console.before == "\ufffd\ufffd "


def test_text_cut_between_two_reads(short_path: Path) -> None:
    """A letter whose bytes come one by one is one letter."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"Gr\xc3")
        connection.recv(1)
        connection.sendall(b"\xbc\xc3\x9fe")

    with unix_server(short_path / "c", behave) as path, Console.connect(path, timeout=5) as console:
        console.expect("Gr")
        console.send("x")
        console.expect("üße")


def test_no_time_at_all(console: Console) -> None:
    """A timeout of 0 looks once, and what is not there is silence, not a broken line."""
    console.expect("login: ")
    with pytest.raises(ConsoleError, match="was silent"):
        console.expect("Welcome", timeout=0)


def test_log_has_what_was_read_and_sent(console: Console) -> None:
    """Pexpect's ``logfile`` sees both sides."""
    console.logfile = io.StringIO()
    console.expect("login: ")
    console.sendline("pi")
    console.expect("Welcome")

    assert console.logfile.getvalue().startswith("\r\nDebian GNU/Linux 12 pi-1 ttyAMA0\r\n\r\npi-1 login: pi\nWelcome")


def test_nobody_there(short_path: Path) -> None:
    """A console that cannot be reached is an error that says where it should be."""
    with pytest.raises(ConsoleError, match="The console of pi-1 cannot be reached") as caught:
        Console.connect(short_path / "nothing", name="pi-1")

    assert caught.value.look == str(short_path / "nothing")


def test_closed_after_the_block(short_path: Path) -> None:
    """The ``with`` block closes the console, and closing it again is no error."""
    with unix_server(short_path / "c", login) as path:
        with Console.connect(path, timeout=5) as console:
            pass
        console.close()

        assert console.closed
