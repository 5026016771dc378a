"""What ``pidoc bench`` does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pytest_pidoc.commands.output import print_json, terminal_progress
from pytest_pidoc.errors import SettingsError
from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings import Settings

__all__ = ["Report", "bench"]


class Report(Protocol):
    """What a measurement gives; printed, it is a table."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""


def bench(options: argparse.Namespace, settings: Settings) -> int:
    """Measure; fail if a soak or a power cut found something, or a model could not be measured."""
    from pytest_pidoc.bench import boot, counting, guest, lan, models, plot, power_cuts, rates, soak, start, workers
    from pytest_pidoc.bench.published import EVENTS

    if options.runs < 1:
        raise SettingsError("--runs must be at least 1.")
    if options.untuned and options.subject != "start":
        raise SettingsError("--untuned is for pidoc bench start.")
    if options.sizes and options.subject != "start":
        raise SettingsError("--sizes is for pidoc bench start.")
    if options.models and options.subject not in ("models", "rates", "guest"):
        raise SettingsError("--models is for pidoc bench models, rates and guest.")
    if options.unchanged is not None and options.subject != "counting":
        raise SettingsError("--unchanged is for pidoc bench counting.")
    if (options.events is not None or options.plot or options.estimate) and options.subject != "guest":
        raise SettingsError("--events, --plot and --estimate are for pidoc bench guest.")
    if options.events is not None and options.events < 1:
        raise SettingsError("--events must be at least 1.")
    if options.plot:
        plot.require(options.plot)
    if options.cuts is not None and options.subject != "power-cuts":
        raise SettingsError("--cuts is for pidoc bench power-cuts.")
    if options.subject == "power-cuts":
        return _report(power_cuts.power_cuts(settings, cuts=_cuts(options.cuts), progress=terminal_progress()), options)
    every = (settings.model,) if options.subject == "guest" else tuple(MODELS)  # all of them would take it hours
    names = tuple(options.models.split(",")) if options.models else every
    subjects: dict[str, Callable[..., Report]] = {
        "boot": boot.boot,
        "start": partial(start.start, untuned=options.untuned, sizes=_sizes(options.sizes)),
        "soak": soak.soak,
        "models": partial(models.models, names=names),
        "lan": lan.lan,
        "counting": partial(counting.counting, unchanged=_unchanged(options.unchanged)),
        "rates": partial(rates.rates, names=names),
        "guest": partial(guest.guest, names=names, events=options.events or EVENTS, estimated=options.estimate),
        "workers": workers.workers,
    }
    report = subjects[options.subject](settings, runs=options.runs, progress=terminal_progress())
    status = _report(report, options)
    if options.plot and isinstance(report, guest.GuestReport):
        plot.plot(report, options.plot)
    return status


def _report(report: Any, options: argparse.Namespace) -> int:
    """Print what a benchmark found, and return the status: 1 if its report can say that it is not well, and does."""
    if options.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if getattr(report, "ok", True) else 1


def _cuts(number: int | None) -> int:
    if number is not None and number < 1:
        raise SettingsError("--cuts must be at least 1.")
    return number or 30


def _unchanged(number: int | None) -> int:
    number = 50 if number is None else number
    if number < 1:
        raise SettingsError("--unchanged must be at least 1.")
    return number


def _sizes(text: str | None) -> tuple[int, ...]:
    """Return the numbers of nodes in ``1,8,16``."""
    try:
        return tuple(Settings.load({"nodes": part}).nodes for part in text.split(",")) if text else ()
    except SettingsError as error:
        raise SettingsError(error.what.replace("--pidoc-nodes", "--sizes")) from None
