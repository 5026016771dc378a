"""Bad arguments of every command: a status and a message, and nothing done that was not asked for.

Of ``pidoc``, and of ``python -m tests.performance``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable

import hypothesis
import pytest
from bad_inputs import almost, judged, plain_text
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc import cli
from pytest_pidoc.commands.arguments import subcommands
from pytest_pidoc.commands.parser import make_parser
from pytest_pidoc.errors import PidocError
from tests.performance import __main__ as performance

FAST = hypothesis.settings.get_profile("soak")


def _commands(parser: argparse.ArgumentParser, line: str = "") -> dict[str, argparse.ArgumentParser]:
    """Return the parsers by what leads to them: ``ps``, ``bench boot``."""
    if not (beneath := subcommands(parser)):
        return {line: parser}
    deeper = (_commands(each, f"{line} {name}".strip()) for name, each in beneath.items())
    return {key: each for found in deeper for key, each in found.items()}


PARSERS = _commands(make_parser())
MEASURING = _commands(performance.make_parser())
#: But the one that runs pytest, which takes seconds.
SUBJECTS = [subject for subject in MEASURING if subject != "workers"]
OPTIONS = sorted(
    {word for command in (*PARSERS.values(), *MEASURING.values()) for word in command._option_string_actions}
)
#: No image or model that is downloaded from somewhere, and no directory but the one where this is run.
VALUES = almost(
    *(
        "auto",
        "local",
        "docker",
        "pi3-virt",
        "pi1",
        "debian:bookworm",
        "docker://127.0.0.1:1/pidoc:1",
        "none",
        "3",
        "250",
    ),
    *(
        "512M",
        "0.5",
        "90",
        "warm",
        "cold",
        "yes",
        "no",
        "quiet",
        "pidoc",
        "pidoc-vm",
        "start",
        "soak",
        "lan",
        "1,8",
        "-1",
    ),
    *("pi-1", "c-1f2e3d4c", "c-1f2e3d4c/pi-1", "https://example.org/a.img", "https://example.org/a#sha256=0"),
).filter(lambda value: "raspios" not in value and not value.strip().startswith(("/", "~", "..")))
SHORT = plain_text.filter(lambda value: len(value) < 100)  # argparse repeats what it does not know, however long
WORD = st.sampled_from(OPTIONS) | almost(*OPTIONS) | VALUES | SHORT | st.just("--")
JOINED = st.builds("{}={}".format, st.sampled_from(OPTIONS), VALUES | SHORT)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("main", "command"),
    [*((cli.main, command) for command in PARSERS), *((performance.main, subject) for subject in SUBJECTS)],
)
@FAST
@given(words=st.lists((WORD | JOINED).filter(lambda word: not word.startswith("--ca")), max_size=4))
def test_arguments_of_a_command(main: Callable[[list[str]], int], command: str, words: list[str]) -> None:
    """Whatever ``--cache-dir`` names becomes a cache and stays: that is left out."""
    said = io.StringIO()
    with judged(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = main([*command.split(), *words])
        except SystemExit as end:  # argparse's
            status = end.code
        assert status in (0, 1, 2)
        if status and command != "doctor":  # which says on stdout what is missing
            raise PidocError(said.getvalue())


@pytest.mark.usefixtures("nothing_left")
@FAST
@given(almost(*PARSERS) | SHORT)
def test_commands_that_there_are_not(command: str) -> None:
    said = io.StringIO()
    with judged(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        hypothesis.assume(command not in PARSERS)
        try:
            status = cli.main([command])
        except SystemExit as end:
            status = end.code
        assert status in (0, 2)
        if status:
            raise PidocError(said.getvalue())
