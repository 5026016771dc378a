"""The log of a build: every command's output goes there, and an error shows how it ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import ImageError
from pytest_pidoc.host import documents
from pytest_pidoc.values.deadline import Deadline

__all__ = ["BuildLog", "sentence"]

# A build that is killed takes its commands along: the kernel tells this shell that its parent has died (setpriv is part
# of every Debian), and the shell signals all of the command's processes, which mmdebstrap alone would wait for.
_WATCHED = (
    *("setpriv", "--pdeathsig", "TERM", "--"),
    *("sh", "-c", """trap 'trap - TERM; kill -TERM 0' TERM; "$@" & wait $!""", "sh"),
)


class BuildLog:
    """Runs the commands of one build and collects what they print in one file.

    Parameters
    ----------
    path
        The log file; an old one is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")

    def run(
        self,
        command: Sequence[str | Path],
        *,
        what: str,
        timeout: float,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        accepted: Collection[int] = (0,),
    ) -> None:
        """Run a command to its end.

        Parameters
        ----------
        command
            Program and arguments; found on ``PATH``.
        what
            What it is for, for the error: ``downloading Debian's packages``.
        timeout
            Seconds after which it is stopped.
        directory, environment
            Its working directory, and variables beside this process's own.
        accepted
            The exit statuses that mean success.

        Raises
        ------
        ImageError
            The command cannot be started, fails or takes too long; the message shows its last lines.
        """
        with self.start(command, what=what, directory=directory, environment=environment) as process:
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise self.error(f"{sentence(what)} took more than {timeout:.0f} s and was stopped.") from None
        if status not in accepted:
            raise self.error(f"{sentence(what)} failed: {command[0]} ended with status {status}.")

    def output(self, command: Sequence[str | Path], *, what: str, timeout: float, **arguments: Any) -> str:
        """Run a command to its end and return what it prints, which the log gets too; as `run` otherwise."""
        start = self.path.stat().st_size
        self.run(command, what=what, timeout=timeout, **arguments)
        with self.path.open("rb") as log:
            log.seek(start)
            return log.read().decode("utf-8", "replace").partition("\n")[2]

    def note(self, text: str) -> None:
        """Write a line of the builder's own."""
        with self.path.open("a", encoding="utf-8") as log:
            log.write(f"# {text}\n")

    @contextlib.contextmanager
    def start(
        self,
        command: Sequence[str | Path],
        *,
        what: str,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command for the length of a ``with`` block; at its end the command and its children are stopped.

        Raises
        ------
        ImageError
            It cannot be started.
        """
        words = [os.fspath(word) for word in command]
        with self.path.open("ab") as log:
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            try:
                process = subprocess.Popen(
                    [*_WATCHED, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=directory,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                )
            except OSError as error:
                raise ImageError(f"Cannot start {words[0]} for {what}: {error.strerror}.") from error
        try:
            yield process
        finally:
            _end(process)

    def error(self, text: str, *, tip: str = "") -> ImageError:
        """Return an error that shows the log's last lines and names it."""
        return ImageError(text, evidence=documents.tail(self.path), look=str(self.path), tip=tip)


def sentence(what: str) -> str:
    """Return the beginning of a sentence: with a capital letter."""
    return what[0].upper() + what[1:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all processes that it has started: with SIGTERM, and after 10 s with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = Deadline(10)
        _signal(process, number)
        while _signal(process, 0):
            if deadline.expired:
                break
            deadline.pause()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the command's process group; tell whether the group still exists."""
    process.poll()  # a zombie that nobody has waited for would count
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
