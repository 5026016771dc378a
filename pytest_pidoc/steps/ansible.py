"""Lets the user's own ``ansible-playbook`` run a playbook, and ends it with all that it has started."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_pidoc.errors import PrepareError, SettingsError
from pytest_pidoc.host.documents import tail
from pytest_pidoc.values.deadline import Deadline

__all__ = ["play", "program"]

PROGRAM = "ansible-playbook"
LINES = 25  # of the output, in a message
KEPT = 200_000  # characters of the output
END_TIMEOUT = 3.0  # seconds for Ansible to end by itself after SIGTERM
LONGEST_FOLDER = 50  # characters: ssh puts a socket there, with 40 more, and a path of a socket has 107 at most

_HEADING = re.compile(r"^((?:PLAY|TASK|RUNNING HANDLER) \[.*\]) \*+$")
_FAILED = re.compile(r"^(?:fatal|failed): \[([^\]\s]+)", re.MULTILINE)


def program(playbook: str) -> str:
    """Return the path of ``ansible-playbook``, in PATH or beside this Python.

    Parameters
    ----------
    playbook
        What it is for, for the message.

    Raises
    ------
    SettingsError
        It is not installed, or has no ``ssh``.
    """
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if found is None:
        raise SettingsError(
            f"prepare: {playbook} needs {PROGRAM}, which is not installed.",
            tip="run pip install ansible-core, or put the folder of ansible-playbook into PATH",
        )
    if shutil.which("ssh") is None:
        raise SettingsError(
            f"prepare: {playbook} needs ssh for {PROGRAM}, which is not installed.",
            tip="run apt-get install openssh-client",
        )
    return found


def play(playbook: Path, inventory: str, *, timeout: float, tell: Callable[[str], None]) -> None:
    """Run a playbook in its folder, with that inventory.

    Parameters
    ----------
    playbook
        Its absolute path.
    inventory
        The text of the inventory.
    timeout
        Seconds that it can take.
    tell
        Hears each play and each task as it begins.

    Raises
    ------
    PrepareError
        It failed, did not end in time, or its hosts are none of the nodes.
    SettingsError
        There is no ``ansible-playbook``.
    """
    command, deadline = program(playbook.name), Deadline(timeout)
    with tempfile.TemporaryDirectory(prefix="pidoc-") as folder:
        hosts, sockets = Path(folder, "inventory.yml"), Path(folder, "ssh")
        hosts.write_text(inventory, encoding="utf-8")
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("ANSIBLE_FORCE_COLOR", None)
        if len(folder) <= LONGEST_FOLDER:
            environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(sockets)
        process = subprocess.Popen(
            [command, "-i", str(hosts), str(playbook)],
            cwd=playbook.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with what it has started
        )
        output = ""
        try:
            for text in _output(process, deadline):
                lines = f"{output.rpartition(chr(10))[2]}{text}".split("\n")
                for line in lines[:-1]:
                    if heading := _HEADING.match(line.rstrip()):
                        tell(heading[1])
                output = f"{output}{text}"[-KEPT:]
        finally:
            is_late = process.poll() is None
            _end(process)
            _close_connections(sockets)
    if is_late:
        raise PrepareError(
            f"{playbook.name} has not finished after {timeout:g} s.",
            evidence=tail(output, LINES),
            tip="look at what the last task waits for, or split the playbook into several steps",
        )
    _raise_if_failed(playbook, process.returncode, output)


def _raise_if_failed(playbook: Path, status: int, output: str) -> None:
    if status != 0:
        nodes = ", ".join(dict.fromkeys(_FAILED.findall(output)))
        raise PrepareError(
            f"{playbook.name} failed{f' on {nodes}' if nodes else ''}: {PROGRAM} ended with status {status}.",
            evidence=tail(output, LINES),
            tip="correct the playbook; it runs again in the next start, on new nodes",
        )
    if "no hosts matched" in output and "ok=" not in output:
        raise PrepareError(
            f"{playbook.name} did nothing, since its hosts are none of the nodes.",
            evidence=tail(output, LINES),
            tip="write hosts: pidoc or hosts: all into it",
        )


def _output(process: subprocess.Popen[bytes], deadline: Deadline) -> Iterator[str]:
    """Yield what a process prints until it has ended or the time is up.

    Not until the end of the output: a connection that ssh keeps open keeps that open, too.
    """
    stream, decoder = process.stdout, codecs.getincrementaldecoder("utf-8")("replace")
    if stream is None:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not deadline.expired:
            has_ended = process.poll() is not None
            if selector.select(0 if has_ended else 0.2):
                if data := os.read(stream.fileno(), 1 << 16):
                    yield decoder.decode(data)
                    continue
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(deadline.remaining)
                return
            if has_ended:
                return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with its group, unless it has ended, and reap it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
    # Its children, if it could not do that itself. As long as there is one, no other process gets that number.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _close_connections(sockets: Path) -> None:
    """End the connections that ssh keeps open for Ansible's next run, which does not come."""
    for socket in sockets.iterdir() if sockets.is_dir() else ():
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                ["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={socket}", "node"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=5,
                check=False,
            )
