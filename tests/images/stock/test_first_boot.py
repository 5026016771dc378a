"""The login on the serial console of somebody else's image: played by a thread, each way it can go."""

import contextlib
import itertools
import re
import shlex
import socket
import threading
import time

import pytest

from pytest_pidoc.errors import ImageError
from pytest_pidoc.guest.console import Console
from pytest_pidoc.images.stock import first_boot
from pytest_pidoc.images.stock.accounts import DEFAULT, Account
from pytest_pidoc.images.stock.first_boot import Patience, Session
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.progress import Progress

SOON = Patience(prompt=2, user=1, command=1, rest=1, off=2)


class Guest:
    """The other end of a serial console: asks for a login, then runs "commands"."""

    def __init__(self, connection, *, password="raspberry", ready_at=0.0, fails=(), prompt="pi@raspberrypi:~$ "):
        self.connection = connection
        self.password = password
        self.ready_at = time.monotonic() + ready_at
        self.fails = fails
        self.prompt = prompt
        self.commands = []

    def say(self, text):
        self.connection.sendall(text.encode())

    def hear(self):
        line = b""
        while not line.endswith(b"\n"):
            if not (byte := self.connection.recv(1)):
                raise EOFError
            line += byte
        return line.decode().strip()

    def play(self):
        self.say("[    2.1] random: crng init done\r\n\r\nRaspbian GNU/Linux 10 raspberrypi ttyAMA0\r\n\r\n")
        while True:
            self.say("raspberrypi login: ")
            user = self.hear()
            self.say(f"{user}\r\nPassword: ")
            right = self.hear() == self.password and time.monotonic() >= self.ready_at
            if right:
                break
            self.say("\r\n\r\nLogin incorrect\r\n")
        self.say(f"\r\nLinux raspberrypi\r\n\x1b[?2004h{self.prompt}")
        while True:
            typed = self.hear()
            if "poweroff" in typed:
                self.connection.close()
                return
            command, _, marker = typed.rpartition("; echo ")
            self.commands.append(command)
            status = 1 if any(word in command for word in self.fails) else 0
            self.say(f"{typed}\r\nsome output\r\n{marker.replace('$?', str(status))}\r\n{self.prompt}")


@pytest.fixture
def session(tmp_path):
    """Return a function that starts a guest and gives it and a session with it."""
    with contextlib.ExitStack() as stack:

        def session(play=Guest.play, account=DEFAULT, **arguments):
            ours, theirs = socket.socketpair()
            guest = Guest(theirs, **arguments)

            def run():
                with contextlib.suppress(OSError, EOFError), theirs:
                    play(guest)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join, 10)
            console = stack.enter_context(Console(ours))
            return guest, Session(console, BuildLog(tmp_path / "log"), Progress(), SOON, account=account)

        yield session


def test_the_steps_are_those_that_the_documentation_names(session, tmp_path):
    """A login, the key, SSH; each step is in the log, and nothing else is done."""
    guest, one = session()

    one.log_in(new_user=False)
    first_boot._make_reachable(one, "ssh-ed25519 AAAA pidoc")
    one.switch_off()

    text = "\n".join(guest.commands)
    assert len(guest.commands) == 9
    assert "echo 'ssh-ed25519 AAAA pidoc' >> ~/.ssh/authorized_keys" in text
    assert "PasswordAuthentication no" in text
    assert "sudo systemctl enable ssh" in text
    steps = re.findall("^# (.*)", (tmp_path / "log").read_text(), re.MULTILINE)
    assert steps[0] == "waiting for the login prompt on the serial console"
    assert steps[-1] == "shutting down"
    assert len(steps) == 11


@pytest.mark.parametrize(
    "prompt",
    [
        "pi@raspberrypi:~$ ",
        "\x1b[01;32mpi@raspberrypi\x1b[00m:\x1b[01;34m~ $\x1b[00m ",
        "\x1b[01;32mpi@raspberrypi\x1b[00m:\x1b[01;34m~\x1b[00m$ ",
        "# ",
    ],
    ids=["debian", "raspbian", "colours", "sh"],
)
def test_a_shell_is_known_by_its_prompt(session, prompt):
    """In any colour."""
    _, one = session(prompt=prompt)

    one.log_in(new_user=False)


def test_a_login_that_never_comes_is_told(session, tmp_path):
    """The time is bounded; the log and the last lines are named."""

    def silent(guest):
        guest.say("[    2.1] random: crng init done\r\n")
        guest.hear()

    _, one = session(silent)

    with pytest.raises(ImageError, match="showed no login prompt on its serial console within") as error:
        one.log_in(new_user=False)
    assert str(tmp_path / "log") in str(error.value)


def test_a_password_that_was_changed_is_told(session):
    """With what is tried, and what would do."""
    _, one = session(password="secret")

    with pytest.raises(ImageError, match=r"(?s)as pi with the password raspberry failed.*Try: set image_user"):
        one.log_in(new_user=False)


def test_a_user_who_is_still_being_made_is_waited_for(session):
    """The console asks before the first boot has set the password."""
    _, one = session(ready_at=0.3)

    one.log_in(new_user=True)
    one.run("asking who I am", "whoami")


def test_a_user_who_is_never_made_is_told(session):
    """After the time that there is for it."""
    _, one = session(password="secret")

    with pytest.raises(ImageError, match=r"after userconf\.txt should have created the user"):
        one.log_in(new_user=True)


def test_a_step_that_fails_is_named(session):
    """With the status that the guest's shell told."""
    _, one = session(fails=["enable ssh"])
    one.log_in(new_user=False)

    with pytest.raises(ImageError, match="Enabling SSH failed in the guest with status 1"):
        first_boot._make_reachable(one, "ssh-ed25519 AAAA pidoc")


def test_a_step_that_takes_too_long_is_named(session):
    """Each is bounded by itself."""

    def hangs(guest):
        guest.say("login: ")
        guest.hear()
        guest.say("Password: ")
        guest.hear()
        guest.say("pi@raspberrypi:~$ ")
        with contextlib.suppress(EOFError):
            while True:
                guest.hear()

    _, one = session(hangs)

    with pytest.raises(ImageError, match="Switching off the shell's echo and colours did not finish within 1 s"):
        one.log_in(new_user=False)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            "Kernel panic - not syncing",
        ),
        ("pidoc: no root device /dev/vda2 after 30 s", "no root device /dev/vda2"),
        ("You are in emergency mode. After logging in, type", "emergency mode"),
    ],
)
def test_an_image_that_does_not_boot_is_not_waited_for(session, said, told):
    """What a kernel or systemd says when it gives up."""

    def gives_up(guest):
        guest.say(f"{said}\r\n")
        guest.hear()

    _, one = session(gives_up)
    start = time.monotonic()

    with pytest.raises(ImageError, match=f"failed to boot: .*{told}"):
        one.log_in(new_user=False)
    assert time.monotonic() - start < SOON.prompt


def test_a_machine_that_goes_off_by_itself_is_told(session):
    """QEMU was killed, or the guest has shut itself down."""
    _, one = session(lambda guest: guest.say("Rebooting in 5 seconds\r\n"))

    with pytest.raises(ImageError, match="ended unexpectedly"):
        one.log_in(new_user=False)


def test_another_user_logs_in_and_can_become_root(session, tmp_path):
    """With a password of any characters, which no log and no error has."""
    ada = Account("ada.l", "it's $ecret")
    guest, one = session(account=ada, password=ada.password)

    one.log_in(new_user=False)
    first_boot._make_reachable(one, "ssh-ed25519 AAAA pidoc")

    allowed = guest.commands[1]
    assert f"printf '%s\\n' {shlex.quote(ada.password)} | sudo -S sh -c" in allowed
    assert "ada.l ALL=(ALL) NOPASSWD: ALL" in allowed
    assert "> /etc/sudoers.d/999_ada-l-nopasswd" in allowed
    assert ada.password not in (tmp_path / "log").read_text()


def test_another_users_password_that_is_wrong_is_not_shown(session):
    """The error says what to set."""
    _, one = session(account=Account("ada", "engine"), password="other")

    with pytest.raises(ImageError, match=r"(?s)Logging in as ada with its image_password failed.*Try: set image_user"):
        one.log_in(new_user=False)


def test_the_machine_has_no_network(tmp_path):
    """What somebody else's image does at its first boot, nobody outside hears of."""
    command = first_boot._command(
        MODELS["pi3-virt"],
        disk=tmp_path / "disk",
        partition=2,
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        log=tmp_path / "log",
    )

    networks = [value for option, value in itertools.pairwise(command) if option == "-netdev"]
    assert networks == ["user,id=net0,restrict=on"]
