"""Answers of a guest that prints more than was asked for."""

from __future__ import annotations

import subprocess

import pytest

from pytest_pidoc.guest.output import answer, answering

NOISE = "echo Welcome; echo 'sudo: unable to resolve host pi-1' >&2; printf 'no line end'; "


def said(script: str) -> str:
    done = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


@pytest.mark.parametrize("noise", ["", NOISE])
def test_answer_is_found_among_other_lines(noise: str) -> None:
    """Whatever a profile, sudo or a kernel prints before and after, on both streams."""
    text = said(f"{noise}{answering('printf %s 12.5')}; {noise}")

    assert answer(text) == "12.5"


def test_answer_can_have_lines_and_be_empty() -> None:
    """What a command prints, but for the last line end, as a shell's substitution gives it."""
    assert answer(said(answering("printf 'a\\nb\\n'"))) == "a\nb"
    assert answer(said(answering("true"))) == ""


def test_command_that_fails_has_no_answer() -> None:
    """What it printed before is no answer."""
    assert answer(said(f"{NOISE}{answering('echo 1; false')}")) is None
