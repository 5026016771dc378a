"""Measure a command in a node: run it several times, and read the guest kernel's counters and the host's clock."""

from __future__ import annotations

import inspect
import json
import shlex
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import BenchmarkError
from pytest_pidoc.pi_benchmark import meter
from pytest_pidoc.pi_benchmark.baseline import Conditions
from pytest_pidoc.pi_benchmark.metrics import METRICS, Metric
from pytest_pidoc.values.checks import shown

if TYPE_CHECKING:
    from pytest_pidoc.node import Node

__all__ = ["EMPTY", "Measurement", "conditions", "measure"]

EMPTY = "true"  # the command that measures what a measurement itself costs

GRACE = 30.0  # seconds on the host for Python to start in the guest
KILL_TIMEOUT = 30.0

#: A command whose processor time is above this factor of what was counted was only counted in part.
LEAST_UNCOUNTED = 1.5
#: Beside that, millions of instructions that pass before counting starts: its process takes 2. An empty sudo takes 15.
BEFORE_COUNTING = 5.0
#: Millions of instructions per second of a node that was started without ``mips``: the rate of pi0 and pi1.
DEFAULT_RATE = 125.0


@dataclass(frozen=True)
class Measurement:
    """What some runs of one command have cost.

    Attributes
    ----------
    command
        What was run.
    rounds
        By metric, one value per run: a count, or seconds. Metrics that the node does not support are left out.
    program
        The SHA-256 of the file that the command's first word names; ``None`` if that is no file.
    """

    command: str
    rounds: Mapping[str, tuple[float, ...]]
    program: str | None = None

    def value(self, metric: str) -> float:
        """Return the median."""
        return statistics.median(self.rounds[metric])

    def spread(self, metric: str) -> float:
        """Return (maximum - minimum) / median."""
        values, middle = self.rounds[metric], self.value(metric)
        return (max(values) - min(values)) / middle if middle else 0.0


def conditions(node: Node) -> Conditions:
    """Return what the figures of this node depend on."""
    manifest = node.image.manifest
    made_from = f"{manifest.recipe} {manifest.key[:12]}"
    return Conditions(node.model, node.clock.mips, node.qemu_version.text, made_from)


def measure(
    node: Node,
    command: str,
    *,
    wanted: Metric,
    setup: str | None = None,
    rounds: int = 3,
    timeout: float = 300.0,
    events: bool = True,
) -> Measurement:
    """Run a shell command *rounds* times in a node, and return what each run cost.

    Parameters
    ----------
    node
        Where.
    command
        What is measured, in the home directory of the node's user.
    wanted
        The metric that must be measured. Others that the node supports are measured, too.
    setup
        A shell command that is run before each round, and not measured.
    rounds
        How often.
    timeout
        Seconds of the host's clock after which a round is ended.
    events
        Whether the guest's kernel counts; otherwise only the two clocks are read.

    Raises
    ------
    BenchmarkError
        The command or its setup failed or did not end, or the node does not support the metric.
    NodeDied
        The node has ended.
    """
    from invoke.exceptions import CommandTimedOut

    asked = json.dumps({"command": command, "setup": setup, "rounds": rounds, "events": events})
    told = _Told()
    try:
        done = node.run(
            f"python3 -c {shlex.quote(inspect.getsource(meter))} {shlex.quote(asked)}",
            hide="stderr",
            out_stream=told,
            warn=True,
            timeout=rounds * timeout + GRACE,
        )
    except CommandTimedOut as error:
        if told.process:
            node.run(f"kill -KILL -{told.process}", warn=True, timeout=KILL_TIMEOUT)
        raise BenchmarkError(
            f"{shown(command)} did not end on {node.name} within {rounds * timeout:g} s ({rounds} x {timeout:g} s).",
            tip="set timeout= to more seconds per round if the command takes longer on the host's clock",
        ) from error
    for answer in told.answers:
        _raise_if_failed(node, command if answer["step"] == "command" else str(setup), answer)
    if not done.ok or len(told.answers) < rounds:
        raise BenchmarkError(
            f"{shown(command)} could not be measured on {node.name}.",
            evidence=done.stderr,
            tip="install python3 in the image",
        )
    rounds_of = {
        name: tuple(float(answer[name]) for answer in told.answers)
        for name in METRICS
        if name in told.answers[0] and all(answer[name] is not None for answer in told.answers)
    }
    _raise_if_lacking(node, wanted, rounds_of, told.answers[0]["refused"])
    if wanted.name in ("instructions", "guest_time"):
        _raise_if_partial(node, command, told.answers)
    return Measurement(command, rounds_of, told.answers[0]["program"])


class _Told:
    """What the program in the guest prints, read when it arrives: each line gets the host's time."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.process = ""
        self._began = self._ended = 0.0
        self._rest = ""

    def write(self, text: str) -> None:
        """Take what has arrived."""
        now = time.monotonic()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            kind, _, content = line.partition(" ")
            if kind == "pidoc-begin":
                self._began, self.process = now, content.strip()
            elif kind == "pidoc-end":
                self._ended = now
            elif kind == "pidoc-round":
                self.answers.append({**json.loads(content), "wall_time": self._ended - self._began})

    def flush(self) -> None:
        """Do nothing: lines are taken when they arrive."""


def _raise_if_failed(node: Node, command: str, answer: Mapping[str, Any]) -> None:
    status = answer["status"]
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        raise BenchmarkError(
            f"The {answer['step']} {shown(command)} {how} on {node.name}.",
            evidence=answer["output"] or "(it printed nothing)",
        )


def _raise_if_lacking(node: Node, wanted: Metric, found: Mapping[str, tuple[float, ...]], refused: str) -> None:
    """Raise if the node does not support the metric, or has not measured it."""
    if wanted.counting and not node.clock.counts_instructions:
        raise BenchmarkError(
            f"{node.name} cannot measure {wanted.name}: its clock does not count instructions.",
            tip="start the node with mips=1000",
        )
    if wanted.name not in found:
        raise BenchmarkError(f"{node.name} cannot measure {wanted.name}.", evidence=refused)


def _raise_if_partial(node: Node, command: str, answers: list[dict[str, Any]]) -> None:
    """Refuse figures of a part of the command: Linux stops counting a program that takes on another user's rights."""
    for answer in answers:
        counted, used = answer["guest_time"], answer["processor_time"]
        if counted is not None and used > LEAST_UNCOUNTED * counted + BEFORE_COUNTING / (
            node.clock.mips or DEFAULT_RATE
        ):
            raise BenchmarkError(
                f"Only part of {shown(command)} was counted on {node.name}: {counted:.3f} s of {used:.3f} s.",
                tip="leave sudo out of the command: Linux stops counting a program that takes on another user's rights",
            )
