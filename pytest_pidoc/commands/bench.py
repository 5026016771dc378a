"""``pidoc bench``: the subjects that it can measure, and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.bench.published import EVENTS
from pytest_pidoc.commands.arguments import GUEST, add_command, add_json, names, whole_number
from pytest_pidoc.commands.output import print_json, terminal_progress
from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.settings.table import OPTIONS
from pytest_pidoc.values.checks import shown

if TYPE_CHECKING:
    from pytest_pidoc.bench.report import Report
    from pytest_pidoc.commands.arguments import Subparsers

__all__ = ["add_models", "add_subject", "add_subjects", "show"]


def add_subjects(subjects: Subparsers) -> None:
    """Add everything that can be measured to the parser of ``pidoc bench``."""
    of_guest = ("engine", *GUEST, "boot_timeout")

    added = add_subject(
        subjects,
        "start",
        _start,
        "compare warm starts with cold ones, and measure a node's memory",
        "pidoc bench start --nodes 3",
        *of_guest,
        "nodes",
    )
    added.add_argument("--untuned", action="store_true", help="also start an untuned Debian cold, which is slow")
    added.add_argument(
        "--sizes", type=_sizes, default=(), metavar="N,...", help="also start clusters of these numbers of nodes warm"
    )
    added = add_subject(
        subjects,
        "models",
        _models,
        "show what each model reports about itself, and measure one cold start and several warm ones",
        "pidoc bench models --models pi1,pi3",
        *(name for name in of_guest if name != "model"),
    )
    add_models(added, tuple(MODELS), "all")
    added = add_subject(
        subjects,
        "guest",
        _guest,
        "measure how fast a guest computes, stores and sends, with a whole CPU and with half of one",
        "pidoc bench guest --estimate",
        *of_guest,
    )
    add_models(added, None, "that of --model")
    added.add_argument(
        "--events",
        type=whole_number,
        default=EVENTS,
        metavar="N",
        help=f"number of events that sysbench computes (default: {EVENTS})",
    )
    added.add_argument("--plot", type=Path, metavar="FILE", help="also plot sysbench's times to a .png or a .svg file")
    added.add_argument("--estimate", action="store_true", help="also estimate times on real boards, with their error")


def _start(options: argparse.Namespace, settings: Settings) -> int:
    """Measure warm and cold starts."""
    from pytest_pidoc.bench import start

    found = start.start(
        settings, runs=options.runs, progress=terminal_progress(), untuned=options.untuned, sizes=options.sizes
    )
    return show(found, options)


def _models(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the models' starts."""
    from pytest_pidoc.bench import models

    found = models.models(settings, runs=options.runs, progress=terminal_progress(), names=options.models)
    return show(found, options)


def _guest(options: argparse.Namespace, settings: Settings) -> int:
    """Measure how fast a guest computes, stores and sends."""
    from pytest_pidoc.bench import guest, plot

    if options.plot:
        plot.require(options.plot)
    found = guest.guest(
        settings,
        runs=options.runs,
        progress=terminal_progress(),
        names=options.models or (settings.model,),  # all of them would take hours
        events=options.events,
        estimated=options.estimate,
    )
    status = show(found, options)
    if options.plot:
        plot.plot(found, options.plot)
    return status


def add_subject(
    subjects: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace, Settings], int],
    summary: str,
    example: str,
    *settings: str,
    repeated: bool = True,
) -> argparse.ArgumentParser:
    """Add something that can be measured, and return its parser; *repeated*: with ``--runs``.

    The other parameters are those of `add_command`.
    """
    added = add_json(add_command(subjects, name, run, summary, example, *settings))
    if repeated:
        added.add_argument("--runs", type=whole_number, default=3, metavar="N", help="number of runs (default: 3)")
    return added


def add_models(parser: argparse.ArgumentParser, default: tuple[str, ...] | None, shown_default: str) -> None:
    """Let a subject measure several models."""
    parser.add_argument(
        "--models",
        type=names,
        default=default,
        metavar="MODEL,...",
        help=f"the models to measure (default: {shown_default})",
    )


def _sizes(text: str) -> tuple[int, ...]:
    """Read the numbers of nodes in ``1,8,16``."""
    (nodes,) = (option for option in OPTIONS if option.name == "nodes")
    found = []
    for size in names(text):
        try:
            found.append(nodes.parse(size))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{shown(size)} is not {error}") from None
    return tuple(found)


def show(report: Report, options: argparse.Namespace) -> int:
    """Print a report, and return the exit status: 1 if it is not `ok`."""
    if options.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if report.ok else 1
