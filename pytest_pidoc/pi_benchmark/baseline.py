"""The baseline: a file in the user's repository with what each benchmark cost, and under which conditions.

It is never half written: a new one is written beside it and then replaces it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import BenchmarkError, BenchmarkSlower
from pytest_pidoc.host import documents
from pytest_pidoc.pi_benchmark.metrics import METRICS
from pytest_pidoc.values.checks import is_number, shown

__all__ = ["Conditions", "Entry", "change", "compare", "entry_from", "find", "read", "update"]

FORMAT = 1


@dataclass(frozen=True)
class Conditions:
    """What a figure depends on: figures that differ in one of these are not compared.

    Attributes
    ----------
    model
        ``pi3-virt``.
    mips
        Millions of instructions in a second of the guest's clock; ``None`` if the clock follows the host's.
    qemu
        The version of QEMU.
    image
        What the guest was made from, and the first digits of its content address.
    """

    model: str
    mips: float | None
    qemu: str
    image: str


@dataclass(frozen=True)
class Entry:
    """One benchmark under some conditions.

    Attributes
    ----------
    name
        The test's node id, and the benchmark's own name if the test has several.
    conditions
        Where it was measured.
    command
        What was run.
    program
        The SHA-256 of the program; ``None`` if it is unknown.
    metrics
        The median of each metric: a count, or seconds.
    """

    name: str
    conditions: Conditions
    command: str
    program: str | None
    metrics: Mapping[str, float]


def entry_from(data: Mapping[str, Any]) -> Entry:
    """Return the entry that ``dataclasses.asdict`` has made plain; a field that is wrong raises."""
    conditions, metrics = Conditions(**data["conditions"]), dict(data["metrics"])
    texts = (data["name"], conditions.model, conditions.qemu, conditions.image, data["command"])
    if not all(isinstance(text, str) for text in (*texts, data["program"] or "")):
        raise TypeError("a text is expected where there is another value")
    numbers = (*metrics.values(), 0 if conditions.mips is None else conditions.mips)
    if not all(is_number(number, 0, sys.float_info.max) for number in numbers):
        raise TypeError("a number is not a finite number from 0 on")
    return Entry(data["name"], conditions, data["command"], data["program"], metrics)


def read(path: Path) -> tuple[Entry, ...]:
    """Return what is in the file; nothing if there is none.

    Raises
    ------
    BenchmarkError
        It cannot be read, or is not what this version writes.
    """
    try:
        data = documents.read(path)
        if data["format"] != FORMAT:
            raise BenchmarkError(
                f"The baseline {path} has the format {shown(data['format'])}; this version reads format {FORMAT}.",
                tip="update pytest-pidoc, or run with --pidoc-benchmark-update after removing the file",
            )
        return tuple(entry_from(each) for each in data["benchmarks"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"The baseline {path} cannot be read.",
            evidence=f"{type(error).__name__}: {error}",
            tip="restore it from version control, or remove it and run with --pidoc-benchmark-update",
        ) from error


def update(path: Path, measured: Iterable[Entry]) -> int:
    """Put entries into the file, each in the place of the one of the same name, model, rate and QEMU.

    What was measured elsewhere, or is not measured now, stays.

    Returns
    -------
    How many entries there are now.

    Raises
    ------
    BenchmarkError
        What is there cannot be read, or nothing can be written there.
    """
    entries = {_place(entry): entry for entry in (*read(path), *measured)}
    listed = [asdict(entries[place]) for place in sorted(entries)]
    text = json.dumps({"format": FORMAT, "benchmarks": listed}, indent=2) + "\n"
    try:
        documents.write(path, text, synced=True)
    except OSError as error:
        raise BenchmarkError(
            f"The baseline {path} cannot be written: {error.strerror}.",
            tip="choose another file with --pidoc-benchmark-file",
        ) from error
    return len(entries)


def _place(entry: Entry) -> tuple[str, str, float, str]:
    return entry.name, entry.conditions.model, entry.conditions.mips or 0.0, entry.conditions.qemu


def find(entries: Iterable[Entry], measured: Entry, *, path: Path, tip: str = "") -> Entry:
    """Return the entry that *measured* can be compared with.

    Raises
    ------
    BenchmarkError
        The baseline has no entry with that name; or none under these conditions: the message names the differences.
    """
    named = [entry for entry in entries if entry.name == measured.name]
    if not named:
        raise BenchmarkError(f"The baseline {path} has no entry for {measured.name}.", tip=tip)
    different = [_differences(entry.conditions, measured.conditions) for entry in named]
    for entry, differences in zip(named, different, strict=True):
        if not differences:
            return entry
    nearest = min(different, key=len)
    raise BenchmarkError(
        f"The baseline of {measured.name} was recorded under other conditions, so it cannot be compared.",
        evidence="\n".join(nearest),
        tip=tip,
    )


def _differences(old: Conditions, new: Conditions) -> list[str]:
    before, now = asdict(old), asdict(new)
    return [f"{name}: {before[name]} in the baseline, {now[name]} now" for name in before if before[name] != now[name]]


def compare(old: Entry, new: Entry, limits: Mapping[str, float], *, tip: str = "") -> None:
    """Compare a benchmark with its baseline.

    Parameters
    ----------
    old, new
        The baseline's entry, and what was measured.
    limits
        How much each metric can rise, as a share; other metrics are ignored.
    tip
        The command that makes the new one the baseline.

    Raises
    ------
    BenchmarkSlower
        A metric has risen by more than that.
    BenchmarkError
        A metric is not in the baseline or was not measured.
    """
    slower = []
    for name, limit in limits.items():
        for which, entry in (("The baseline", old), ("This run", new)):
            if name not in entry.metrics:
                raise BenchmarkError(f"{which} of {new.name} has no metric {name}.", tip=tip)
        before, now = old.metrics[name], new.metrics[name]
        if now > before * (1 + limit):
            show = METRICS[name].show
            slower.append(
                f"{name}: {show(before)} before, {show(now)} now: {change(before, now)}, allowed +{100 * limit:g} %"
            )
    if slower:
        raise BenchmarkSlower(
            f"{new.name} is slower than its baseline.",
            evidence="\n".join([*slower, *_causes(old, new)]),
            tip=tip,
        )


def change(before: float, now: float) -> str:
    """Return a difference as text: ``+1.00 %``."""
    return f"{100 * (now - before) / before:+.2f} %" if before else "from nothing"


def _causes(old: Entry, new: Entry) -> list[str]:
    """Say what else has changed."""
    said = []
    if old.command != new.command:
        said.append(f"The command has changed from {shown(old.command)} to {shown(new.command)}.")
    if old.program and new.program:
        same = old.program == new.program
        said.append("The program's file is unchanged." if same else "The program's file has changed.")
    return said
