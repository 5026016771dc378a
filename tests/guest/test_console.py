"""The serial console, against a peer on a real socket."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import socket
import threading
from typing import TYPE_CHECKING

import pexpect
import pytest
from support import unix_server

from pytest_pidoc.errors import ConsoleError
from pytest_pidoc.guest.console import Console
from pytest_pidoc.values.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
    with pytest.raises(ConsoleError, match=r"The console of pi-1 did not show 'Password' within 0\.0\d+ s") as caught:
        console.expect("Password", timeout=0.05)

    assert "pi-1 login:" in caught.value.evidence


def test_what_was_matched_is_seen_too(console: Console) -> None:
    """When nothing more comes, the error shows what came before."""
    console.expect("login: ")
    with pytest.raises(ConsoleError) as caught:
        console.expect("Password", timeout=0.05)

    assert "pi-1 login:" in caught.value.evidence


def test_nothing_at_all(short_path: Path) -> None:
    """A console that was silent from the start is told as such, with where the rest is."""
    with (
        unix_server(short_path / "c", lambda connection: connection.recv(1)) as path,
        Console.connect(path, name="pi-1") as console,
        pytest.raises(ConsoleError) as caught,
    ):
        console.expect("login", timeout=0.05)

    assert caught.value.evidence == "(it showed no output)"
    assert "serial_log" in caught.value.tip


@pytest.mark.parametrize("positional", [False, True])
def test_no_wait_is_without_a_limit(short_path: Path, positional: bool) -> None:
    """A timeout of None, with which pexpect waits for ever, is the console's own."""
    with (
        unix_server(short_path / "c", lambda connection: connection.recv(1)) as path,
        Console.connect(path, name="pi-1", timeout=0.05) as console,
        pytest.raises(ConsoleError, match="did not show 'never'"),
    ):
        console.expect("never", None) if positional else console.expect("never", timeout=None)


def test_exact_text_that_does_not_come_is_an_error(console: Console) -> None:
    """Plain texts are treated as patterns are."""
    with pytest.raises(ConsoleError, match="did not show 'Password' or '#' within"):
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
    with pytest.raises(
        ConsoleError, match=r"The console of pi-1 was closed after .* s, before it showed 'never'"
    ) as caught:
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
    with pytest.raises(ConsoleError, match="did not show"):
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
    with pytest.raises(ConsoleError, match="Cannot connect to the console of pi-1") as caught:
        Console.connect(short_path / "nothing", name="pi-1")

    assert caught.value.look == str(short_path / "nothing")


def test_closed_after_the_block(short_path: Path) -> None:
    """The ``with`` block closes the console, and closing it again is no error."""
    with unix_server(short_path / "c", login) as path:
        with Console.connect(path, timeout=5) as console:
            pass
        console.close()

        assert console.closed


def terminal(*command: str) -> Callable[[socket.socket], None]:
    """Return what connects a socket to a program on a terminal, as a serial port does."""

    def serve(connection: socket.socket) -> None:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp(command[0], command)
        try:
            while True:
                for ready in select.select([terminal, connection], [], [], 10)[0]:
                    if ready is connection:
                        data = connection.recv(4096)
                        os.write(terminal, data)
                    else:
                        data = os.read(terminal, 4096)
                        connection.sendall(data)
                    if not data:
                        return
        finally:
            os.close(terminal)
            os.waitpid(pid, 0)

    return serve


LOGIN = r"""
stty -echo
while :; do
    printf 'pi-1 login: '; read -r name
    [ -n "$name" ] || continue
    printf 'Password: '; read -r password; echo
    [ "$name/$password" = pi/raspberry ] && break
    echo 'Login incorrect'
done
stty echo
PS1='pi@pi-1:~$ ' exec bash --norc --noprofile -i
"""

#: A guest whose profile prints, and whose prompt has the colours of Raspberry Pi OS.
NOISY = LOGIN.replace(
    "PS1='pi@pi-1:~$ '",
    r"""
printf '####\n# Authorised users only #\n####\nlocale: Cannot set LC_ALL\n'
PS1="$(printf '\033[01;32mpi@pi-1\033[00m:\033[01;34m~ $\033[00m ')" """,
)


@pytest.fixture(
    params=[("bash", "--norc", "--noprofile", "-i"), ("sh", "-c", LOGIN), ("sh", "-c", NOISY)],
    ids=["shell", "login", "noisy"],
)
def shell(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Console]:
    """A console with a real shell on a real terminal, which may ask for a name and a password."""
    with (
        unix_server(short_path / "console.sock", terminal(*request.param)) as path,
        Console.connect(path, name="pi-1", timeout=5) as opened,
    ):
        opened.log_in("pi", "raspberry", deadline=Deadline(10))
        yield opened


def test_command_runs_on_the_console(shell: Console) -> None:
    """Status and text are the command's own: no echo, no prompt, neither stream lost."""
    assert shell.run("echo one; echo two >&2; (exit 3)") == (3, "one\ntwo\n")
    assert shell.run("true") == (0, "")


def test_any_command_can_be_run_on_the_console(shell: Console) -> None:
    """Quotes, several lines, and more than a line of a terminal holds."""
    text = 'it\'s "quoted" $HOME `here` \\n\n' * 400

    assert shell.run(f"cat <<'END' | wc -c\n{text}END\n").text.strip() == str(len(text))


def test_command_on_the_console_that_does_not_end_is_an_error(shell: Console) -> None:
    """A bound is a bound."""
    with pytest.raises(ConsoleError, match="did not show"):
        shell.run("sleep 3", timeout=0.3)


def test_console_that_logs_in_by_itself_is_given_no_name(short_path: Path) -> None:
    """What it prints then looks like a question for a moment."""
    automatic = "printf 'pi-1 login: '; sleep 0.2; echo 'pi (automatic login)'; exec bash --norc --noprofile -i"
    with (
        unix_server(short_path / "console.sock", terminal("sh", "-c", automatic)) as path,
        Console.connect(path, name="pi-1", timeout=5) as console,
    ):
        console.log_in("pi", "", deadline=Deadline(10))

        assert console.run("echo here") == (0, "here\n")


def test_wrong_password_is_told(short_path: Path) -> None:
    """Nobody waits until a time-out for a login that was refused."""
    with (
        unix_server(short_path / "console.sock", terminal("sh", "-c", LOGIN)) as path,
        Console.connect(path, name="pi-1", timeout=5) as console,
        pytest.raises(ConsoleError, match="Logging in to pi-1 as pi with its image's password failed"),
    ):
        console.log_in("pi", "changed", deadline=Deadline(10))


def test_console_without_a_prompt_is_told(console: Console) -> None:
    """A login program that asks for a name and goes away is no shell."""
    with pytest.raises(ConsoleError, match="was closed"):
        console.log_in(deadline=Deadline(5))


def test_console_that_stays_silent_is_told(short_path: Path) -> None:
    """There is a bound, and the wait can be ended sooner by whoever knows better."""
    looked = []
    with (
        unix_server(short_path / "console.sock", terminal("sleep", "20")) as path,
        Console.connect(path, name="pi-1", timeout=5) as console,
        pytest.raises(ConsoleError, match="The console of pi-1 showed no prompt within 0 s"),
    ):
        console.log_in(deadline=Deadline(0.2), check=lambda: looked.append(True))

    assert looked


def test_what_comes_meanwhile_is_kept_for_the_next_expect(short_path: Path) -> None:
    """Whoever writes is not held up by nobody's reading, and nothing is lost or mixed up."""
    written = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"before ")
        connection.recv(100)
        for number in range(2000):  # a byte at a time, as QEMU does: 300 fill the socket
            connection.send(b"%d" % (number % 10))
        connection.sendall(b" end")
        written.set()
        connection.recv(100)

    with unix_server(short_path / "c", behave) as path, Console.connect(path, timeout=5) as console:
        console.expect("before ")
        console.sendline("go")
        assert written.wait(10)

        console.expect(r"(\d+) (\w+)")
        assert isinstance(console.match, re.Match)
        assert console.match.groups() == ("0123456789" * 200, "end")
