"""A plot of what ``pidoc bench guest`` measured beside the published figures; the only user of matplotlib."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pytest_pidoc.bench.guest import SHARES, GuestReport
from pytest_pidoc.bench.published import EMULATED, EVENTS, MAX_PRIME, PHYSICAL
from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.values.checks import shown

__all__ = ["KINDS", "plot", "require"]

#: The supported endings of a plot's file name.
KINDS = (".png", ".svg")
COLOURS = ("#1f77b4", "#9ecae1", "#999999")  # here with each of SHARES, and published


def require(path: Path) -> None:
    """Raise an error if no plot can be written there: before the benchmark, which takes minutes.

    Raises
    ------
    SettingsError
        The name does not end in one of `KINDS`, or its directory does not exist.
    PidocError
        matplotlib is not installed.
    """
    if path.suffix not in KINDS:
        raise SettingsError(f"--plot: {shown(str(path))} must end in {' or '.join(KINDS)}.")
    if not path.parent.is_dir():
        raise SettingsError(f"--plot: the directory {shown(str(path.parent))} does not exist.")
    if find_spec("matplotlib") is None:
        raise PidocError("A plot needs matplotlib.", tip="run pip install 'pytest-pidoc[plot]'")


def plot(report: GuestReport, path: Path) -> None:
    """Draw how long sysbench's CPU test takes, on each model and on the boards of the published figures.

    Parameters
    ----------
    report
        What was measured.
    path
        A PNG or an SVG file; an existing one is overwritten.

    Raises
    ------
    PidocError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    bars: list[tuple[str, list[float]]] = []
    for each in report.primes:
        name = each.model if each.size == EVENTS else f"{each.model}\n(extrapolated from {each.size:,})"
        bars.append((name, each.ten_thousand(lambda lap: lap.seconds)))
    bars.append(("pidoc's emulated Pi\n(published)", list(EMULATED)))
    bars += [(f"{name}\n(published)", [seconds]) for name, seconds in PHYSICAL.items()]

    figure = Figure(figsize=(9, 0.55 * len(bars) + 1.8), layout="constrained")
    axes = figure.subplots()
    for place, (_, values) in enumerate(bars):
        colours = COLOURS if place < len(report.primes) else COLOURS[-1:] * 2
        height = 0.8 / len(values)
        for number, value in enumerate(values):
            middle = place - 0.4 + height * (number + 0.5)
            drawn = axes.barh(middle, value, height * 0.9, color=colours[number])
            axes.bar_label(drawn, fmt="%.1f s", padding=3, fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    shares = ", ".join(f"cpus={share:g}" for share in SHARES)
    axes.set_xlabel(f"seconds; where there are two bars: {shares}\n{report.where(report.sysbench)}", fontsize=8)
    axes.set_title(f"sysbench cpu, {EVENTS:,} events, --cpu-max-prime={MAX_PRIME}")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise PidocError(f"The plot cannot be written to {path}: {error.strerror}.") from error
