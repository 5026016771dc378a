"""The baseline: a file in the user's repository with what each benchmark cost, and the machine that it is true of.

It is never half written: a new one is written beside it and takes its place at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import BenchmarkError, BenchmarkSlower
from pytest_pidoc.host import documents
from pytest_pidoc.pi_benchmark.metrics import METRICS
from pytest_pidoc.values.checks import is_number, shown

__all__ = ["Conditions", "Entry", "change", "compare", "find", "read", "update"]

FORMAT = 1


@dataclass(frozen=True)
class Conditions:
    """The machine that a figure is true of: between two that differ in one of these, nothing is compared.

    Attributes
    ----------
    model
        ``pi3-virt``.
    mips
        Millions of instructions in a second of the guest's clock; ``None`` where it is the host's.
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
    """One benchmark on one machine.

    Attributes
    ----------
    name
        The test's node id, and the benchmark's own name if the test has several.
    conditions
        The machine.
    command
        What was run.
    program
        The SHA-256 of the program; ``None`` if that is not known.
    metrics
        The median of each metric: a count, or seconds.
    """

    name: str
    conditions: Conditions
    command: str
    program: str | None
    metrics: Mapping[str, float]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        """Return the entry that ``dataclasses.asdict`` has made plain; a field that is wrong raises."""
        conditions, metrics = Conditions(**data["conditions"]), dict(data["metrics"])
        texts = (data["name"], conditions.model, conditions.qemu, conditions.image, data["command"])
        if not all(isinstance(text, str) for text in (*texts, data["program"] or "")):
            raise TypeError("a text is none")
        numbers = (*metrics.values(), 0 if conditions.mips is None else conditions.mips)
        if not all(is_number(number, 0, sys.float_info.max) for number in numbers):
            raise TypeError("a number is none, or is negative")
        return cls(data["name"], conditions, data["command"], data["program"], metrics)


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
            raise BenchmarkError(f"The baseline {path} is of a format that this version does not know.")
        return tuple(Entry.from_dict(each) for each in data["benchmarks"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"The baseline {path} cannot be read.",
            evidence=f"{type(error).__name__}: {error}",
            tip="take it from version control again; or remove it and run with --pidoc-benchmark-update",
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
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        raise BenchmarkError(f"The baseline {path} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return len(entries)


def _place(entry: Entry) -> tuple[str, str, float, str]:
    return entry.name, entry.conditions.model, entry.conditions.mips or 0.0, entry.conditions.qemu


def find(entries: Iterable[Entry], measured: Entry, *, path: Path, tip: str = "") -> Entry:
    """Return the entry that *measured* may be held against.

    Raises
    ------
    BenchmarkError
        There is none of that name; or none of that machine, and the message names what differs.
    """
    named = [entry for entry in entries if entry.name == measured.name]
    if not named:
        raise BenchmarkError(f"The baseline {path} has nothing about {measured.name}.", tip=tip)
    different = [_differences(entry.conditions, measured.conditions) for entry in named]
    for entry, differences in zip(named, different, strict=True):
        if not differences:
            return entry
    nearest = min(different, key=len)
    raise BenchmarkError(
        f"The baseline of {measured.name} is of another machine: nothing can be compared.",
        evidence="\n".join(nearest),
        tip=tip,
    )


def _differences(old: Conditions, new: Conditions) -> list[str]:
    before, now = asdict(old), asdict(new)
    return [f"{name}: {before[name]} in the baseline, {now[name]} now" for name in before if before[name] != now[name]]


def compare(old: Entry, new: Entry, limits: Mapping[str, float], *, tip: str = "") -> None:
    """Hold a benchmark against its baseline.

    Parameters
    ----------
    old, new
        The baseline's entry, and what was measured.
    limits
        By how much each metric may be more, as a share; other metrics are not looked at.
    tip
        The command that makes the new one the baseline.

    Raises
    ------
    BenchmarkSlower
        A metric is more than that.
    BenchmarkError
        A metric is not in the baseline or was not measured.
    """
    slower = []
    for name, limit in limits.items():
        for which, entry in (("The baseline", old), ("This run", new)):
            if name not in entry.metrics:
                raise BenchmarkError(f"{which} of {new.name} has no {name}.", tip=tip)
        before, now = old.metrics[name], new.metrics[name]
        if now > before * (1 + limit):
            show = METRICS[name].show
            slower.append(
                f"{name}: {show(before)} before, {show(now)} now: {change(before, now)}, allowed +{100 * limit:g} %"
            )
    if slower:
        raise BenchmarkSlower(
            f"{new.name} has become slower.",
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
        said.append(f"The command was {shown(old.command)} and is {shown(new.command)}.")
    if old.program and new.program:
        same = old.program == new.program
        said.append("The program is the same file." if same else "The program is another file.")
    return said
