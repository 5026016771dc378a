"""The command line of ``python -m tests.performance``: what it takes, and its exit status."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_pidoc.commands.arguments import subcommands
from tests.performance.__main__ import PROGRAM, main, make_parser

pytestmark = pytest.mark.usefixtures("clusters", "no_settings", "no_docker")

SUBJECTS = ("boot", "soak", "lan", "power-cuts", "rates", "counting", "workers")

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
DOCUMENTED = {line for page in PAGES for line in re.findall(rf"^\$ {PROGRAM} (.*)", page.read_text(), re.MULTILINE)}


def usage(*arguments: str) -> object:
    """Run a command line that argparse ends, and return the exit status."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_subjects_are_those_that_are_tested() -> None:
    """There is no subject without a test, and none is missing."""
    assert tuple(subcommands(make_parser())) == SUBJECTS


def test_command_runs_in_the_root_of_a_clone() -> None:
    """What the docs show can be typed there, and nothing has to be installed for it but the package."""
    done = subprocess.run(
        [sys.executable, *PROGRAM.split()[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith(f"usage: {PROGRAM} ")
    assert [subject for subject in SUBJECTS if not re.search(rf"^    {subject}\b", done.stdout, re.MULTILINE)] == []


@pytest.mark.parametrize("subject", SUBJECTS)
def test_help_has_an_example(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each subject's help shows a command line that one can type, and that the parser takes."""
    assert usage(subject, "--help") == 0
    (example,) = re.findall(rf"^example:\n  {PROGRAM} (.*)", capsys.readouterr().out, re.MULTILINE)

    assert example.split()[0] == subject
    assert callable(make_parser().parse_args(shlex.split(example)).run)


def test_docs_show_the_command() -> None:
    """So the next test tests something."""
    assert {line.split()[0] for line in DOCUMENTED} == set(SUBJECTS)


@pytest.mark.parametrize("line", sorted(DOCUMENTED))
def test_documented_line_is_right(line: str) -> None:
    """What README and docs show can be typed."""
    assert callable(make_parser().parse_args(shlex.split(line)).run)


def test_each_subject_runs_what_has_its_name() -> None:
    subjects = subcommands(make_parser())

    assert {name: parser.get_default("run").__name__ for name, parser in subjects.items()} == {
        name: "_" + name.replace("-", "_") for name in subjects
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "start",
        "boot --runs many",
        "boot --runs 0",
        "boot --sizes 8",
        "soak --untuned",
        "rates --plot a.png",
        "lan --estimate",
        "lan --engine docker",
        "counting --unchanged 0",
        "power-cuts --cuts 0",
        "power-cuts --runs 3",
    ],
)
def test_wrong_line_is_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the parser does not take ends with status 2 and the usage."""
    assert usage(*line.split()) == 2
    assert f"usage: {PROGRAM}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("counting --model pi9", "--model: 'pi9' is not one of pi3-virt"),
        ("rates --models pi9", "'pi9' is not a known model"),
        ("lan --model pi1-versatile", "The model pi1-versatile has no LAN"),
    ],
)
def test_bad_value_is_wrong_usage(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that is impossible ends with status 2 and a message."""
    assert main(line.split()) == 2
    assert f"pidoc: {message}" in capsys.readouterr().err


def test_failure_is_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an engine nothing is measured, and the error says what to do."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert main(["rates"]) == 1
    assert "requires QEMU" in capsys.readouterr().err


@pytest.mark.parametrize("subject", SUBJECTS)
def test_json_where_a_script_reads(subject: str) -> None:
    """Every subject can print JSON."""
    assert make_parser().parse_args([subject, "--json"]).json
