"""``pidoc bench``: what it can measure, and what each of it takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_pidoc.bench.published import EVENTS
from pytest_pidoc.commands.arguments import GUEST, add_command, add_json, names, whole_number
from pytest_pidoc.commands.output import print_json, terminal_progress
from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings import OPTIONS, Settings
from pytest_pidoc.values.checks import shown

if TYPE_CHECKING:
    from pytest_pidoc.commands.arguments import Subparsers

__all__ = ["Report", "add_subjects"]


class Report(Protocol):
    """What a measurement gives; printed, it is a table."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""


def add_subjects(subjects: Subparsers) -> None:
    """Add everything that can be measured to the parser of ``pidoc bench``."""
    of_guest = ("engine", *GUEST, "boot_timeout")
    of_models = tuple(name for name in of_guest if name != "model")

    _add(
        subjects,
        "boot",
        _boot,
        "cold boots, against an untuned Debian and of three nodes",
        "pidoc bench boot --engine local",
        *("engine", "model", "boot_timeout"),
    )
    added = _add(
        subjects,
        "start",
        _start,
        "warm starts against cold ones",
        "pidoc bench start --nodes 3",
        *of_guest,
        "nodes",
    )
    added.add_argument("--untuned", action="store_true", help="cold starts of an untuned Debian too, which are slow")
    added.add_argument(
        "--sizes", type=_sizes, default=(), metavar="N,...", help="warm clusters of these numbers of nodes, too"
    )
    _add(
        subjects,
        "soak",
        _soak,
        "warm starts one after the other; fails if one of them does or something is left behind",
        "pidoc bench soak --runs 200",
        *of_guest,
        "nodes",
    )
    added = _add(
        subjects,
        "models",
        _models,
        "what each model says that it is, and its starts, one cold and the others warm",
        "pidoc bench models --models pi1,pi3",
        *of_models,
    )
    _add_models(added, tuple(MODELS), "all")
    _add(
        subjects,
        "lan",
        _lan,
        "what the network between nodes carries and costs, and what its faults do",
        "pidoc bench lan --model pi4-virt",
        *("model", "boot_timeout"),
    )
    added = _add(
        subjects,
        "power-cuts",
        _power_cuts,
        "pull the plug amid synced writes; fails if something of them is lost",
        "pidoc bench power-cuts --cuts 10",
        *of_guest,
        repeated=False,
    )
    added.add_argument("--cuts", type=whole_number, default=30, metavar="N", help="how many (default: 30)")
    added = _add(
        subjects,
        "rates",
        _rates,
        "disk and network of each model against the same QEMU without what is added",
        "pidoc bench rates --models pi3,pi3-virt",
        *(name for name in of_models if name != "engine"),
    )
    _add_models(added, tuple(MODELS), "all")
    added = _add(
        subjects,
        "counting",
        _counting,
        "how counts repeat on a busy machine, and whether 1 % more work is seen; fails if not",
        "pidoc bench counting --runs 20",
        *of_guest,
    )
    added.add_argument(
        "--unchanged", type=whole_number, default=50, metavar="N", help="runs of the same program (default: 50)"
    )
    added = _add(
        subjects,
        "guest",
        _guest,
        "how fast a guest computes, stores and sends, with a whole CPU and with half of one",
        "pidoc bench guest --estimate",
        *of_guest,
    )
    _add_models(added, None, "that of --model")
    added.add_argument(
        "--events",
        type=whole_number,
        default=EVENTS,
        metavar="N",
        help=f"how many sysbench computes (default: {EVENTS})",
    )
    added.add_argument("--plot", type=Path, metavar="FILE", help="draw it, too, to a .png or a .svg file")
    added.add_argument("--estimate", action="store_true", help="times on real boards, too, each with its error")
    _add(
        subjects,
        "workers",
        _workers,
        "tests that wait, one after the other and with workers of pytest-xdist, and whether two had one node",
        "pidoc bench workers",
        *("engine", "model"),
    )


def _boot(options: argparse.Namespace, settings: Settings) -> int:
    """Measure cold boots."""
    from pytest_pidoc.bench import boot

    return _report(boot.boot(settings, runs=options.runs, progress=terminal_progress()), options)


def _start(options: argparse.Namespace, settings: Settings) -> int:
    """Measure warm starts."""
    from pytest_pidoc.bench import start

    found = start.start(
        settings, runs=options.runs, progress=terminal_progress(), untuned=options.untuned, sizes=options.sizes
    )
    return _report(found, options)


def _soak(options: argparse.Namespace, settings: Settings) -> int:
    """Start again and again."""
    from pytest_pidoc.bench import soak

    return _report(soak.soak(settings, runs=options.runs, progress=terminal_progress()), options)


def _models(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the models' starts."""
    from pytest_pidoc.bench import models

    found = models.models(settings, runs=options.runs, progress=terminal_progress(), names=options.models)
    return _report(found, options)


def _lan(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the network between nodes."""
    from pytest_pidoc.bench import lan

    return _report(lan.lan(settings, runs=options.runs, progress=terminal_progress()), options)


def _power_cuts(options: argparse.Namespace, settings: Settings) -> int:
    """Pull the plug."""
    from pytest_pidoc.bench import power_cuts

    return _report(power_cuts.power_cuts(settings, cuts=options.cuts, progress=terminal_progress()), options)


def _rates(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the models' disks and networks."""
    from pytest_pidoc.bench import rates

    found = rates.rates(settings, runs=options.runs, progress=terminal_progress(), names=options.models)
    return _report(found, options)


def _counting(options: argparse.Namespace, settings: Settings) -> int:
    """Measure how counts repeat."""
    from pytest_pidoc.bench import counting

    found = counting.counting(settings, runs=options.runs, progress=terminal_progress(), unchanged=options.unchanged)
    return _report(found, options)


def _guest(options: argparse.Namespace, settings: Settings) -> int:
    """Measure what a guest computes, stores and sends."""
    from pytest_pidoc.bench import guest, plot

    if options.plot:
        plot.require(options.plot)
    found = guest.guest(
        settings,
        runs=options.runs,
        progress=terminal_progress(),
        names=options.models or (settings.model,),  # all of them would take it hours
        events=options.events,
        estimated=options.estimate,
    )
    status = _report(found, options)
    if options.plot:
        plot.plot(found, options.plot)
    return status


def _workers(options: argparse.Namespace, settings: Settings) -> int:
    """Measure what workers of pytest-xdist save."""
    from pytest_pidoc.bench import workers

    return _report(workers.workers(settings, runs=options.runs, progress=terminal_progress()), options)


def _add(
    subjects: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace, Settings], int],
    summary: str,
    example: str,
    *settings: str,
    repeated: bool = True,
) -> argparse.ArgumentParser:
    """Add a subject that prints a report, and is measured several times unless it counts by itself."""
    added = add_json(add_command(subjects, name, run, summary, example, *settings))
    if repeated:
        added.add_argument("--runs", type=whole_number, default=3, metavar="N", help="how often (default: 3)")
    return added


def _add_models(parser: argparse.ArgumentParser, default: tuple[str, ...] | None, said: str) -> None:
    parser.add_argument(
        "--models", type=names, default=default, metavar="MODEL,...", help=f"which of them (default: {said})"
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


def _report(report: Report, options: argparse.Namespace) -> int:
    """Print what was found, and return the status: 1 if the report can say that it is not well, and does."""
    if options.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if getattr(report, "ok", True) else 1
