"""The command ``pidoc``.

Exit status: 0 for success, 1 for a failure, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from pytest_pidoc.commands.parser import make_parser
from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.settings.table import OPTIONS

__all__ = ["carry_out", "main", "parse"]

FAILED, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return carry_out(parse(sys.argv[1:] if arguments is None else arguments))


def carry_out(options: argparse.Namespace) -> int:
    """Run the command in a parsed command line, and return the exit status; what goes wrong is printed."""
    run: Callable[[argparse.Namespace, Settings], int] = options.run
    try:
        given = {option.name: getattr(options, option.name, None) for option in OPTIONS}
        return run(options, Settings.load(given, prefix="--"))
    except PidocError as error:
        print(f"pidoc: {_with_our_options(error)}", file=sys.stderr)
        return USAGE if isinstance(error, SettingsError) else FAILED
    except KeyboardInterrupt:
        print("pidoc: interrupted; everything was cleaned up", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed the pipe
        sys.stderr.close()
        return FAILED
    except OSError as error:  # the disk is full, a file in a cluster's directory is damaged, and the like
        print(f"pidoc: system error: {error}", file=sys.stderr)
        return FAILED


def _with_our_options(error: PidocError) -> str:
    """Return an error's text with the options of this command: ``--engine``, not pytest's ``--pidoc-engine``."""
    return str(error).replace("--pidoc-", "--")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Words after ``--`` are passed on: argparse would take them for a missing node."""
    ours = list(arguments)
    words: list[str] = []
    if "--" in ours:
        ours, words = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    options = make_parser().parse_args(ours)
    if hasattr(options, "words"):
        options.words += words
    elif words:
        make_parser().error(f"unrecognized arguments: {' '.join(words)}")
    return options
