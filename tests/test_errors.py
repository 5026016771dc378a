"""Errors: their tree and their text."""

from __future__ import annotations

import pytest

from pytest_pidoc import errors
from pytest_pidoc.errors import PidocError

BELOW = {
    "SettingsError": "PidocError",
    "NoRoom": "PidocError",
    "EngineUnavailable": "PidocError",
    "ImageError": "PidocError",
    "ChecksumMismatch": "ImageError",
    "DownloadError": "ImageError",
    "ImageInUse": "ImageError",
    "BootError": "PidocError",
    "BootTimeout": "BootError",
    "RestoreFailed": "BootError",
    "NodeDied": "BootError",
    "KernelPanic": "BootError",
    "NodeRestarted": "BootError",
    "PrepareError": "PidocError",
    "ConsoleError": "PidocError",
    "MonitorError": "PidocError",
    "CopyError": "PidocError",
    "FaultError": "PidocError",
    "WaitError": "PidocError",
    "WaitTimeout": "WaitError",
    "BenchmarkError": "PidocError",
    "BenchmarkSlower": "BenchmarkError",
}


@pytest.mark.parametrize(("name", "base"), BELOW.items())
def test_tree(name: str, base: str) -> None:
    """Every error stands where the documented tree has it."""
    assert getattr(errors, name).__bases__ == (getattr(errors, base),)


def test_tree_is_complete() -> None:
    """The module offers the errors of the tree and no others."""
    assert set(errors.__all__) == {"PidocError", *BELOW}


@pytest.mark.parametrize("name", errors.__all__)
def test_tree_in_the_docstring(name: str) -> None:
    """The drawing in the module's docstring has every error."""
    assert name in errors.__doc__


def test_message_has_what_evidence_look_and_tip_in_this_order() -> None:
    """The text says what failed, the indented evidence, where to look and what to try."""
    error = PidocError("pi-1 died.", evidence="first\nlast\n", look="/logs/serial.log", tip="more memory")

    assert str(error).splitlines() == [
        "pi-1 died.",
        "    first",
        "    last",
        "More: /logs/serial.log",
        "Try: more memory",
    ]


def test_message_alone() -> None:
    """An error with nothing but a sentence prints that sentence."""
    assert str(PidocError("It failed.", evidence=" \n ")) == "It failed."


def test_message_follows_a_changed_place() -> None:
    """Logs that were moved are shown where they are now."""
    error = PidocError("It failed.", look="/tmp/gone")
    error.look = "/kept/here"

    assert str(error).endswith("More: /kept/here")


def test_parts_are_attributes() -> None:
    """A face can show the parts in its own way."""
    error = PidocError("a", evidence="b", look="c", tip="d")

    assert (error.what, error.evidence, error.look, error.tip) == ("a", "b", "c", "d")
