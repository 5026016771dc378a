"""``python -m tests.performance SUBJECT``: the subjects that it can measure, and their options.

Run it in the root of a clone. What it is called with, how errors are shown and its exit status are as with ``pidoc``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_pidoc import cli
from pytest_pidoc.commands.arguments import GUEST, whole_number
from pytest_pidoc.commands.bench import add_models, add_subject, show
from pytest_pidoc.commands.output import terminal_progress
from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings.spec import Settings

__all__ = ["PROGRAM", "main", "make_parser"]

PROGRAM = "python -m tests.performance"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return cli.carry_out(make_parser().parse_args(arguments))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measure pytest-pidoc itself.",
        epilog=f"{PROGRAM} SUBJECT --help has an example of each subject.",
    )
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True)
    of_guest = ("engine", *GUEST, "boot_timeout")

    add_subject(
        subjects,
        "boot",
        _boot,
        "measure cold boots: an untuned Debian, the default image, and three nodes of it",
        f"{PROGRAM} boot --engine local",
        *("engine", "model", "boot_timeout"),
    )
    add_subject(
        subjects,
        "soak",
        _soak,
        "start nodes warm again and again, and fail if a start fails or something is left behind",
        f"{PROGRAM} soak --runs 200",
        *of_guest,
        "nodes",
    )
    add_subject(
        subjects,
        "lan",
        _lan,
        "measure what the network between nodes carries and costs, and what its faults do",
        f"{PROGRAM} lan --model pi4-virt",
        *("model", "boot_timeout"),
    )
    added = add_subject(
        subjects,
        "power-cuts",
        _power_cuts,
        "cut a node's power amid synced writes, and fail if a synced record is lost",
        f"{PROGRAM} power-cuts --cuts 10",
        *of_guest,
        repeated=False,
    )
    added.add_argument("--cuts", type=whole_number, default=30, metavar="N", help="number of power cuts (default: 30)")
    added = add_subject(
        subjects,
        "rates",
        _rates,
        "compare disk and network of each model with the same QEMU started by hand",
        f"{PROGRAM} rates --models pi3,pi3-virt",
        *(name for name in of_guest if name not in ("engine", "model")),
    )
    add_models(added, tuple(MODELS), "all")
    added = add_subject(
        subjects,
        "counting",
        _counting,
        "measure how counts repeat on a busy host, and fail if they do not show 1 % more work",
        f"{PROGRAM} counting --runs 20",
        *of_guest,
    )
    added.add_argument(
        "--unchanged",
        type=whole_number,
        default=50,
        metavar="N",
        help="number of runs of the unchanged program (default: 50)",
    )
    add_subject(
        subjects,
        "workers",
        _workers,
        "measure what pytest-xdist saves with tests that wait, and count tests that had one node at the same time",
        f"{PROGRAM} workers",
        *("engine", "model"),
    )
    return parser


def _boot(options: argparse.Namespace, settings: Settings) -> int:
    """Measure cold boots."""
    from tests.performance import boot

    return show(boot.boot(settings, runs=options.runs, progress=terminal_progress()), options)


def _soak(options: argparse.Namespace, settings: Settings) -> int:
    """Start nodes again and again."""
    from tests.performance import soak

    return show(soak.soak(settings, runs=options.runs, progress=terminal_progress()), options)


def _lan(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the network between nodes."""
    from tests.performance import lan

    return show(lan.lan(settings, runs=options.runs, progress=terminal_progress()), options)


def _power_cuts(options: argparse.Namespace, settings: Settings) -> int:
    """Cut a node's power."""
    from tests.performance import power_cuts

    return show(power_cuts.power_cuts(settings, cuts=options.cuts, progress=terminal_progress()), options)


def _rates(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the models' disks and networks."""
    from tests.performance import rates

    found = rates.rates(settings, runs=options.runs, progress=terminal_progress(), names=options.models)
    return show(found, options)


def _counting(options: argparse.Namespace, settings: Settings) -> int:
    """Measure how counts repeat."""
    from tests.performance import counting

    found = counting.counting(settings, runs=options.runs, progress=terminal_progress(), unchanged=options.unchanged)
    return show(found, options)


def _workers(options: argparse.Namespace, settings: Settings) -> int:
    """Measure what workers of pytest-xdist save."""
    from tests.performance import workers

    return show(workers.workers(settings, runs=options.runs, progress=terminal_progress()), options)


if __name__ == "__main__":
    sys.exit(main())
