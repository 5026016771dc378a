"""What can be chosen about benchmarks: the rows of their options, their marker, and how a limit is written.

The plugin imports this in every run of pytest, and the rest of the package when a test has asked for ``pi_benchmark``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.values import inputs
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.options import Chosen, Option

__all__ = [
    "CHOSEN",
    "DEFAULTS",
    "DEFAULT_FILE",
    "FIXTURE",
    "METRIC_NAMES",
    "OPTIONS",
    "PROPERTY",
    "SIGNATURE",
    "AskedMeasurement",
    "Limits",
    "asked_measurement",
    "limits",
]

#: Where pytest's configuration holds what was chosen.
CHOSEN = pytest.StashKey[Chosen]()
SIGNATURE = "pidoc_benchmark(metric=None, rounds=None, fail=None)"
FIXTURE = "pi_benchmark"
PROPERTY = "pidoc_benchmark"  # of a test's report, which also reaches the controlling process of pytest-xdist
DEFAULT_FILE = "pidoc-benchmarks.json"
METRIC_NAMES = ("instructions", "guest_time", "virtual_time", "wall_time")
MOST_ROUNDS = 1000
_PREFIX = "benchmark_"
_LIMITS_WANTED = f"METRIC:N%, such as instructions:2%, with one of the metrics {', '.join(METRIC_NAMES)}"


class Limits(dict[str, float]):
    """How much more each metric may be than in the baseline, as a share."""

    def __str__(self) -> str:
        return ",".join(f"{name}:{100 * share:g}%" for name, share in self.items())


def limits(value: object) -> Limits:
    """Read limits such as ``instructions:2%,wall_time:50%``."""
    found = Limits()
    for part in filter(None, (each.strip() for each in value.split(","))) if isinstance(value, str) else ():
        read = re.fullmatch(r"([a-z_]+)\s*:\s*(\d{1,4}(?:\.\d{1,6})?)\s*%", part)
        if read is None or read[1] not in METRIC_NAMES:
            raise ValueError(_LIMITS_WANTED)
        found[read[1]] = float(read[2]) / 100
    if not found:
        raise ValueError(_LIMITS_WANTED)
    return found


def _metric(value: object) -> str:
    return inputs.one_of(value, METRIC_NAMES)


def _rounds(value: object) -> int:
    return inputs.whole(value, 1, MOST_ROUNDS, f"a whole number from 1 to {MOST_ROUNDS}")


def _file(value: object) -> str:
    return inputs.line(value, "a path of a file")


OPTIONS: tuple[Option, ...] = (
    Option(
        "benchmark_metric",
        _metric,
        f"what pi_benchmark measures: {', '.join(METRIC_NAMES)} (default: instructions)",
        "METRIC",
    ),
    Option("benchmark_rounds", _rounds, f"how often pi_benchmark runs a command: 1 to {MOST_ROUNDS} (default: 3)", "N"),
    Option("benchmark_fail", limits, "fail a benchmark that is above the baseline by more than this", "METRIC:N%,..."),
    Option(
        "benchmark_file", _file, f"the baseline's file (default: {DEFAULT_FILE} in pytest's root directory)", "FILE"
    ),
)
DEFAULTS: Mapping[str, Any] = {
    "benchmark_metric": METRIC_NAMES[0],
    "benchmark_rounds": 3,
    "benchmark_fail": Limits(),
    "benchmark_file": DEFAULT_FILE,
}


class AskedMeasurement(NamedTuple):
    """What a test's marker and the options ask of its benchmarks."""

    metric: str
    rounds: int
    limits: Mapping[str, float]


def asked_measurement(chosen: Chosen, marker: Mapping[str, object]) -> AskedMeasurement:
    """Return what the arguments of a marker ask for, filled up from what was chosen for the run.

    Raises
    ------
    SettingsError
        An argument is unknown or bad; the tip prints the marker's signature.
    """
    values = {**DEFAULTS, **chosen.values}
    rows = {option.name.removeprefix(_PREFIX): option for option in OPTIONS[:3]}
    for name, value in marker.items():
        if name not in rows:
            raise SettingsError(f"The marker pidoc_benchmark has no argument {shown(name)}.", tip=SIGNATURE)
        row = rows[name]
        if isinstance(value, str) and not value:  # switches off what the run asks for
            values[row.name] = DEFAULTS[row.name]
        elif value is not None:
            try:
                values[row.name] = row.read(value, f"{name} of the marker pidoc_benchmark")
            except SettingsError as error:
                raise SettingsError(error.what, tip=SIGNATURE) from None
    return AskedMeasurement(values["benchmark_metric"], values["benchmark_rounds"], values["benchmark_fail"])
