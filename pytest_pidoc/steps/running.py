"""Does a step in a cluster that runs: calls a function, runs a script on all nodes, or lets Ansible run a playbook."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pytest_pidoc.errors import PidocError, PrepareError, SettingsError
from pytest_pidoc.host.documents import tail
from pytest_pidoc.steps import ansible
from pytest_pidoc.steps.steps import Function, Playbook, Recorded, Script, Step
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.parallel import side_by_side
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import duration

__all__ = ["PREPARE_TIMEOUT", "Prepared", "PreparedNode", "require", "run"]

PREPARE_TIMEOUT = 1800.0  # seconds for one script or playbook: packages on an emulated board take many minutes
TELL_EVERY = 10.0
LINES = 15  # of the output, in a message
DIFFERENT = 5  # how many different outputs a message shows

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class PreparedNode(Protocol):
    """What a step needs of a node."""

    @property
    def name(self) -> str:
        """``pi-1``."""

    @property
    def lan_address(self) -> str | None:
        """Its address in the LAN, if it has one."""

    def write(self, path: str, content: str | bytes, *, mode: int | None = None) -> None:
        """Write a file."""


class Prepared(Protocol):
    """What a step needs of a cluster; a function gets all that it is."""

    spec: Any

    def __iter__(self) -> Iterator[Any]:
        """Yield the nodes."""

    def __len__(self) -> int:
        """Return how many there are."""

    def run(self, command: str, **kwargs: Any) -> Any:
        """Run a command on all nodes, side by side."""

    def inventory(self) -> str:
        """Return Ansible's inventory."""


def require(steps: Sequence[Step]) -> None:
    """See that the host has what the steps need, before any node is started.

    Raises
    ------
    SettingsError
        A program is missing, or a step is known from a record only.
    """
    for step in steps:
        if isinstance(step, Recorded):
            raise SettingsError(
                f"prepare: {step.name} is known only as what another process has done.",
                tip="start the cluster with the same prepare as there",
            )
        if isinstance(step, Playbook):
            ansible.program(step.name)


def run(step: Step, cluster: Prepared, *, progress: Progress, timeout: float | None = None) -> None:
    """Do a step.

    Parameters
    ----------
    step
        What is to be done.
    cluster
        Where.
    progress
        Hears which step that is and, every ten seconds, how long it has taken so far; of a playbook each task.
    timeout
        Seconds that a script or a playbook can take; by default `PREPARE_TIMEOUT`. A function is not interrupted.

    Raises
    ------
    PrepareError
        The step has failed; the message has the names of the nodes and the end of the output. Of a function, the
        exception that it raised is the cause.
    PidocError
        The function raised it, or a node has ended.
    SettingsError
        There is no ``ansible-playbook``, or the step's file is gone.
    """
    limit = PREPARE_TIMEOUT if timeout is None else timeout
    with _told(progress, _described(step, cluster)) as tell:
        if isinstance(step, Function):
            _call(step, cluster)
        elif isinstance(step, Script):
            _run_script(step, cluster, limit)
        elif isinstance(step, Playbook):
            ansible.play(step.path, cluster.inventory(), timeout=limit, tell=tell)
        else:
            require([step])


def _described(step: Step, cluster: Prepared) -> str:
    """Return ``preparing 3 x pi3-virt: setup.sh, step 2 of 3``."""
    model, steps = getattr(cluster.spec, "model", "nodes"), tuple(getattr(cluster.spec, "prepare", ()))
    place = f", step {steps.index(step) + 1} of {len(steps)}" if len(steps) > 1 and step in steps else ""
    return f"preparing {len(cluster)} x {model}: {step.name}{place}"


@contextlib.contextmanager
def _told(progress: Progress, what: str) -> Iterator[Callable[[str], None]]:
    """Tell that something is done until the block ends; yield what tells of a part of it."""
    began, done, part = time.monotonic(), threading.Event(), ""

    def tell(text: str) -> None:
        nonlocal part
        part = f": {text}"
        progress.step(f"{what}{part}")

    def keep_telling() -> None:
        while not done.wait(TELL_EVERY):
            progress.step(f"{what}{part}, for {duration(time.monotonic() - began)} so far")

    progress.step(what)
    thread = threading.Thread(target=keep_telling, name="pidoc-prepare", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        done.set()
        thread.join()


def _call(step: Function, cluster: Prepared) -> None:
    try:
        step.function(cluster)
    except PidocError:  # it says which node, and what to do
        raise
    except Exception as error:
        file = getattr(getattr(step.function, "__code__", None), "co_filename", None)
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
        raise PrepareError(
            f"{step.name}, which prepares the cluster, raised {type(error).__name__}.",
            evidence=_end_of(str(error)),
            look=f"{file}:{lines[-1]}" if lines else "",
            tip="correct the function; it runs again in the next start, on new nodes",
        ) from error


def _run_script(step: Script, cluster: Prepared, timeout: float) -> None:
    """Run a script as root on all nodes, side by side."""
    try:
        content = step.path.read_bytes()
    except OSError as error:
        raise SettingsError(f"prepare: {step.path} cannot be read: {error.strerror}.") from error
    safe_name = re.sub(r"[^A-Za-z0-9_.-]", "_", step.name)
    script = f".pidoc-{secrets.token_hex(8)}-{safe_name}"  # in the home of the user who logs in
    wrapper = f"{script}.start"
    by_itself = content.startswith((b"#!", b"\x7fELF"))
    names = " ".join(node.name for node in cluster)

    def lay_out(node: PreparedNode) -> None:
        variables = {"PIDOC_NODE": node.name, "PIDOC_NODES": names, "PIDOC_ADDRESS": node.lan_address}
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items() if value)
        start = f'export {given}\ncd "$HOME" || exit\nexec {"" if by_itself else "sh "}"$1"\n'
        node.write(wrapper, start, mode=0o600)
        node.write(script, content, mode=0o700)

    side_by_side(lay_out, cluster)
    command = (
        f'sudo -n -H sh {wrapper} "$PWD/{script}" </dev/null 2>&1; status=$?; rm -f {wrapper} {script}; exit $status'
    )
    deadline = Deadline(timeout)
    try:
        outcomes = cluster.run(command, warn=True, hide=True, timeout=max(1, int(deadline.remaining))).by_name
    except PidocError:
        raise
    except Exception as error:
        outcomes = getattr(getattr(error, "result", None), "by_name", None)
        if outcomes is None:
            raise
    failed = {name: text for name, outcome in outcomes.items() if (text := _failure(outcome, timeout))}
    if failed:
        raise PrepareError(
            f"{step.name} failed on {len(failed)} of {len(outcomes)} nodes: {', '.join(failed)}.",
            evidence=_alike(failed),
            tip=(
                "save the script with the line ends of Unix"
                if b"\r\n" in content and by_itself
                else "correct the script; it runs again in the next start, on new nodes"
            ),
        )


def _failure(outcome: Any, timeout: float) -> str:
    """Return how a script ended on a node, and the end of its output; "" if it was successful."""
    result = outcome if hasattr(outcome, "exited") else getattr(outcome, "result", None)
    if result is None:
        return f"{type(outcome).__name__}: {outcome}"
    if isinstance(outcome, BaseException) and hasattr(outcome, "timeout"):
        how = f"not finished after {timeout:g} s"
    elif result.exited is None or result.exited < 0:
        how = "no exit status, because the connection broke"
    elif result.exited:
        how = f"exit status {result.exited}"
    else:
        return ""
    return f"{how}\n{_end_of(result.stdout) or '(no output)'}"


def _alike(texts: dict[str, str]) -> str:
    """Return the texts of nodes; those that are alike once."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    parts = [f"{', '.join(alike)}: {text}" for text, alike in list(names.items())[:DIFFERENT]]
    if len(names) > DIFFERENT:
        parts.append(f"{len(names) - DIFFERENT} more failures are left out here.")
    return "\n".join(parts)


def _end_of(text: str) -> str:
    return tail(_CONTROL.sub("", text), LINES)
