"""The first boot of somebody else's image: an emulated machine, a login on its serial console, and SSH for us.

Everything that changes the guest is in `_make_reachable`; each step has a time limit and is in the build's log.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect

from pytest_pidoc.errors import ConsoleError
from pytest_pidoc.guest.console import Console
from pytest_pidoc.images.debian.second_stage import FAST, quoted
from pytest_pidoc.images.stock.accounts import DEFAULT, Account
from pytest_pidoc.images.store.buildlog import BuildLog, sentence
from pytest_pidoc.machines import Machine
from pytest_pidoc.values.progress import Progress

__all__ = ["PATIENCE", "Patience", "Session", "first_boot"]

CONSOLE = "console.sock"
_PROMPT = r"[$#] ?(?:\x1b\[[0-9;?]*[a-zA-Z])* ?$"  # Raspbian's ends with a change of colour and a space


@dataclass(frozen=True)
class Patience:
    """The time limit of each step, in seconds; a boot takes 15 to 60 on a fast host.

    Attributes
    ----------
    prompt
        Until the console asks for a login.
    user
        Until a user that the first boot creates can log in.
    command
        Each command.
    rest
        Until the guest has finished starting.
    off
        Until the guest has shut down.
    """

    prompt: float = 900.0
    user: float = 300.0
    command: float = 300.0
    rest: float = 600.0
    off: float = 300.0


PATIENCE = Patience()


#: The LAN of a cluster has no DHCP server, and NetworkManager removes the addresses of a card that gets no answer.
#: dhcpcd, which Raspberry Pi OS had until 2023, assigns another address.
_LEAVE_LAN = (
    "cd /etc/NetworkManager/conf.d 2>/dev/null &&"
    r' printf "[device-pidoc]\nmatch-device=interface-name:eth1\nmanaged=0\n" > pidoc.conf;'
    " [ ! -f /etc/dhcpcd.conf ] || echo denyinterfaces eth1 >> /etc/dhcpcd.conf"
)


def first_boot(
    machine: Machine,
    *,
    disk: Path,
    partition: int,
    kernel: Path,
    initrd: Path,
    account: Account,
    public_key: str,
    new_user: bool,
    log: BuildLog,
    progress: Progress,
    patience: Patience = PATIENCE,
) -> None:
    """Boot a disk once, allow one user to log in over SSH with a key and nobody with a password, and shut it down.

    Parameters
    ----------
    machine
        What to emulate: a model with virtio devices, even if the image is for another one.
    disk
        The disk, in raw format. It is changed.
    partition
        The number of the root partition; 0 if the disk has no partition table.
    kernel, initrd
        What QEMU boots it with.
    account
        The user, with a password for the serial console.
    public_key
        The key that can log in, as a line of ``authorized_keys``.
    new_user
        Whether the first boot creates the user, from ``userconf.txt``.
    log
        Gets the serial console, and each step.
    progress
        Is called with each step.
    patience
        The time limits of the steps.

    Raises
    ------
    ImageError
        QEMU cannot be started, the console shows no login prompt, the login fails, or a step fails.
    """
    what = "booting the image for the first time"
    directory = disk.parent
    command = _command(machine, disk=disk, partition=partition, kernel=kernel, initrd=initrd, log=log.path)
    progress.step("booting the image once in an emulated machine, to enable SSH")
    with log.start(command, what=what, directory=directory) as process:
        console = _connect(directory / CONSOLE, alive=lambda: process.poll() is None, log=log)
        with console:
            session = Session(console, log, progress, patience, account=account)
            session.log_in(new_user=new_user)
            _make_reachable(session, public_key)
            session.switch_off()
        try:
            process.wait(patience.off)
        except subprocess.TimeoutExpired:
            raise log.error(f"The guest has shut down, but QEMU did not exit within {patience.off:.0f} s.") from None


def _make_reachable(session: Session, public_key: str) -> None:
    """Change the guest so that its SSH server accepts our key. This is all that pidoc changes in it."""
    # sudo reads no file whose name has a dot, and of two lines for a user the last counts.
    user = session.account.name
    sudoers = f"/etc/sudoers.d/{'010_pi' if user == DEFAULT.name else '999_' + user.replace('.', '-')}-nopasswd"
    session.run(
        "allowing sudo without a password",
        f"sudo -n true 2>/dev/null || printf '%s\\n' {shlex.quote(session.account.password)} | sudo -S sh -c "
        f"'echo \"{user} ALL=(ALL) NOPASSWD: ALL\" > {sudoers}'",
    )
    session.run(
        "adding an SSH key to authorized_keys",
        f"mkdir -p -m 700 ~/.ssh && echo '{public_key}' >> ~/.ssh/authorized_keys && chmod 600 ~/.ssh/authorized_keys",
    )
    session.run(
        "disabling passwords over SSH, because this one is published",
        "sudo sed -i '1i PasswordAuthentication no\\nChallengeResponseAuthentication no' /etc/ssh/sshd_config",
    )
    session.run("keeping DHCP off the cluster's network", f"sudo sh -c '{_LEAVE_LAN}'")
    # What the image's own first boot does for its SSH server has to be done before a key of ours is there.
    session.run("waiting until the guest has finished starting", "systemctl is-system-running --wait; true", rest=True)
    session.run(
        "creating an SSH host key, unless the image has one",
        "ls /etc/ssh/ssh_host_*_key || sudo ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
    )
    session.run("enabling SSH", "sudo systemctl enable ssh")
    session.run("starting SSH", "sudo systemctl restart ssh && systemctl is-active ssh")


class Session:
    """A login on a serial console, and what is typed there.

    Parameters
    ----------
    console
        Connected, and not logged in.
    log, progress
        Receive each step; QEMU itself writes the console's output to the log.
    patience
        The time limits of the steps.
    account
        Who logs in.
    """

    def __init__(
        self,
        console: Console,
        log: BuildLog,
        progress: Progress,
        patience: Patience = PATIENCE,
        *,
        account: Account = DEFAULT,
    ) -> None:
        self.account = account
        self._console = console
        self._log = log
        self._progress = progress
        self._patience = patience

    def log_in(self, *, new_user: bool) -> None:
        """Log in with the account's name and password.

        With *new_user* a failed login is repeated, because the user might not exist yet.

        Raises
        ------
        ImageError
            The console shows no login prompt, the login fails, or the boot ended in an emergency shell.
        """
        self._step("waiting for the login prompt on the serial console")
        start = time.monotonic()
        self._expect(
            ["login: "],
            self._patience.prompt,
            f"The image showed no login prompt on its serial console within {self._patience.prompt:.0f} s.",
        )
        while True:
            self._console.sendline(self.account.name)
            self._expect(["assword: "], self._patience.command, "The serial console did not ask for a password.")
            self._console.sendline(self.account.password)
            answers = ["ogin incorrect", _PROMPT]
            if answers[self._expect(answers, self._patience.command, "The login started no shell.")] == _PROMPT:
                break
            waited = time.monotonic() - start
            if not new_user or waited > self._patience.user:
                raise self._log.error(
                    f"Logging in as {self.account.name} with {self.account.shown_password} failed on the serial console"
                    + (f", for {waited:.0f} s after userconf.txt should have created the user." if new_user else "."),
                    tip="set image_user and image_password to a user of the image and its password",
                )
            self._expect(["login: "], self._patience.command, "The serial console did not ask for a login again.")
        self.run("switching off the shell's echo and colours", "unset HISTFILE; export TERM=dumb; stty -echo cols 500")

    def run(self, what: str, command: str, *, rest: bool = False) -> None:
        """Run a shell command.

        Raises
        ------
        ImageError
            The command failed, or took too long.
        """
        self._step(what)
        # The console echoes what is typed, but the echo does not match the pattern: it has no digits there.
        self._console.sendline(f"{command}; echo pidoc-status:$?:")
        limit = self._patience.rest if rest else self._patience.command
        self._expect([r"pidoc-status:\d+:"], limit, f"{sentence(what)} did not finish within {limit:.0f} s.")
        status = int(str(self._console.after).split(":")[1])
        if status:
            raise self._log.error(f"{sentence(what)} failed in the guest with status {status}.")

    def switch_off(self) -> None:
        """Shut the guest down cleanly, and wait until the console is gone.

        Raises
        ------
        ImageError
            The shutdown takes too long.
        """
        self._step("shutting down")
        self._console.sendline("sudo systemctl poweroff")
        self._expect(
            [pexpect.EOF], self._patience.off, f"The guest did not shut down within {self._patience.off:.0f} s."
        )

    def _step(self, text: str) -> None:
        self._log.note(text)
        self._progress.step(f"in the guest: {text}")

    def _expect(self, wanted: Sequence[str | type[pexpect.EOF]], timeout: float, failure: str) -> int:
        """Wait for one of some patterns, but no longer than until the guest gives up; return the pattern's number."""
        given_up = [r"Kernel panic - not syncing[^\r\n]*", r"pidoc: no root device[^\r\n]*", "emergency mode"]
        try:
            found = int(self._console.expect([*wanted, *given_up], timeout=timeout))
        except ConsoleError as error:
            ended = isinstance(error.__cause__, (pexpect.EOF, OSError))
            raise self._log.error("The emulated machine ended unexpectedly." if ended else failure) from error
        if found >= len(wanted):
            raise self._log.error(f"The image failed to boot: {self._console.after}")
        return found


def _connect(path: Path, *, alive: Callable[[], bool], log: BuildLog) -> Console:
    """Connect to the console as soon as QEMU has made its socket."""
    while True:
        try:
            return Console.connect(path, name="the machine that boots the image")
        except ConsoleError as error:
            if not alive():
                raise log.error("QEMU exited right after its start.") from error
        time.sleep(0.05)


def _command(machine: Machine, *, disk: Path, partition: int, kernel: Path, initrd: Path, log: Path) -> list[str]:
    root = f"{machine.root}{partition or ''}"
    return [
        machine.binary,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", machine.machine, "-cpu", machine.cpu, "-smp", "2", "-m", "1G"),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"root={root} rw rootwait console={machine.console} quiet panic=-1 net.ifnames=0 {FAST}"),
        *("-drive", f"if=none,id=disk0,format=raw,file={disk.name},cache=unsafe,discard=unmap,detect-zeroes=unmap"),
        *("-device", f"{machine.disk},drive=disk0"),
        # A network card for whatever waits for one, and nothing behind it: a build must not depend on the network.
        *("-netdev", "user,id=net0,restrict=on", "-device", f"{machine.network},netdev=net0"),
        *(part for device in machine.devices for part in ("-device", device)),
        *("-chardev", f"socket,id=serial0,path={CONSOLE},server=on,wait=off,logfile={quoted(log)},logappend=on"),
        *("-serial", "chardev:serial0"),
    ]
