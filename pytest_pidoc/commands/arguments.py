"""What the parsers of all commands have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.settings.table import OPTIONS
from pytest_pidoc.values.checks import shown

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "GUEST",
    "NODES",
    "Subparsers",
    "add_command",
    "add_json",
    "add_parser",
    "names",
    "subcommands",
    "whole_number",
]

#: The settings that say which guest nodes boot, and those that say how nodes run.
GUEST = tuple(option.name for option in OPTIONS if option.applies == "guest")
NODES = tuple(option.name for option in OPTIONS if option.applies == "nodes")


def add_parser(subparsers: Subparsers, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Add a parser whose help has the *summary* and ends with an *example* of a command line, and return it."""
    return subparsers.add_parser(
        name,
        help=summary.replace("%", "%%"),
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace, Settings], int],
    summary: str,
    example: str,
    *settings: str,
) -> argparse.ArgumentParser:
    """Add a command, with options for the named settings and for the cache's directory, and return its parser.

    Parameters
    ----------
    subparsers
        What it is added to.
    name, summary
        What stands in the list of commands.
    run
        Called with what was given, and with the settings; returns the exit status.
    example
        A command line for the help.
    settings
        Names of fields of `Settings`.
    """
    added = add_parser(subparsers, name, summary, example)
    added.set_defaults(run=run)
    for option in OPTIONS:
        if option.name in (*settings, "cache_dir"):
            flag = "--" + option.name.replace("_", "-")
            kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"action": "store_true"}
            added.add_argument(flag, dest=option.name, default=None, help=option.help, **kind)
    return added


def add_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let a command print JSON, and return its parser."""
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    return parser


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers right beneath one, by their names; argparse has no public way to ask for them."""
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: command for action in actions for name, command in action.choices.items()}


def whole_number(text: str) -> int:
    """Read a number from 1 to 1,000,000,000 for argparse."""
    if not (re.fullmatch(r"\d{1,10}", text, re.ASCII) and 1 <= int(text) <= 1_000_000_000):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number from 1 to 1000000000")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Read names with commas between, for argparse."""
    return tuple(name.strip() for name in text.split(","))
