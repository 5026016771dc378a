"""The command line of ``pidoc``: what it takes, and its exit status."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pytest_pidoc import __version__, cli
from pytest_pidoc.commands.arguments import subcommands
from pytest_pidoc.commands.parser import make_parser
from pytest_pidoc.settings.table import FLAGS, MARKER

pytestmark = pytest.mark.usefixtures("clusters", "no_settings", "no_docker")

COMMANDS = (
    "demo",
    "doctor",
    "models",
    "build",
    "pull",
    "images",
    "prune",
    "up",
    "ps",
    "ssh",
    "console",
    "down",
    "bench",
)
SUBJECTS = ("start", "models", "guest")

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
DOCUMENTED = {line for page in PAGES for line in re.findall(r"^\$ pidoc (.*)", page.read_text(), re.MULTILINE)}

every_command = pytest.mark.parametrize("command", [*COMMANDS, *(f"bench {subject}" for subject in SUBJECTS)])


def usage(*arguments: str) -> object:
    """Run a command line that argparse ends, and return the exit status."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


def test_commands_are_those_of_the_contract() -> None:
    """There is no command without a test, and none is missing."""
    commands = subcommands(make_parser())

    assert tuple(commands) == COMMANDS
    assert tuple(subcommands(commands["bench"])) == SUBJECTS


def test_command_is_installed() -> None:
    """``pidoc`` is a program of the distribution."""
    (script,) = entry_points(group="console_scripts", name="pidoc")

    assert script.load() is cli.main


@every_command
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help shows a command line that one can type, and that the parser takes."""
    assert usage(*command.split(), "--help") == 0
    (example,) = re.findall(r"^example:\n  (pidoc .*)", capsys.readouterr().out, re.MULTILINE)

    assert example.startswith(f"pidoc {command}")
    assert callable(make_parser().parse_args(shlex.split(example)[1:]).run)


def test_help_of_up_explains_the_marker(capsys: pytest.CaptureFixture[str]) -> None:
    """Who has started nodes by hand learns how a test asks for the same: each argument there is an option here."""
    assert usage("up", "--help") == 0
    told = capsys.readouterr().out

    assert "@pytest.mark.pidoc(nodes=3, boot_timeout=60)" in told
    assert not [each.name for each in MARKER if each not in FLAGS and f"--{each.name.replace('_', '-')}" not in told]


@pytest.mark.parametrize("line", sorted(DOCUMENTED))
def test_documented_line_is_right(line: str) -> None:
    """What README and docs show can be typed."""
    assert callable(cli.parse(shlex.split(line)).run)


def test_each_command_runs_what_has_its_name() -> None:
    """Those beneath ``bench`` as well."""
    commands = subcommands(make_parser())
    subjects = subcommands(commands.pop("bench"))

    assert {name: parser.get_default("run").__name__ for name, parser in commands.items()} == {
        name: name for name in commands
    }
    assert {name: parser.get_default("run").__name__ for name, parser in subjects.items()} == {
        name: "_" + name.replace("-", "_") for name in subjects
    }


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The main help has each command with its summary."""
    assert usage("--help") == 0
    out = capsys.readouterr().out

    assert [command for command in COMMANDS if not re.search(rf"^    {command} +\w", out, re.MULTILINE)] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the package's."""
    assert usage("--version") == 0
    assert capsys.readouterr().out == f"pytest-pidoc {__version__}\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "fly",
        "up --speed 3",
        "up extra",
        "pull",
        "prune --days soon",
        "bench",
        "bench shutdown",
        "bench start --runs many",
        "bench speed",
        "bench start --runs 0",
        "bench models --sizes 8",
        "bench start --sizes 8,none",
        "bench models --untuned",
        "bench start --cuts 3",
        "bench start --events 3",
        "bench start --models pi1",
        "bench start --unchanged 3",
        "bench models --plot a.png",
        "bench models --estimate",
        "bench guest --events 0",
        "build --container podman",
        "demo --json",
    ],
)
def test_wrong_line_is_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the parser does not take ends with status 2 and the usage."""
    assert usage(*line.split()) == 2
    assert "usage: pidoc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("up --nodes 0", "--nodes: '0' is not a whole number from 1 to 250"),
        ("up --nodes three", "--nodes: 'three' is not"),
        ("up --nodes=-1", "--nodes: '-1' is not"),
        ("up --nodes 10000", "--nodes: '10000' is not"),
        ("up --model pi9", "--model: 'pi9' is not one of pi3-virt"),
        ("bench guest --model pi9", "--model: 'pi9' is not one of pi3-virt"),
        ("up --engine podman", "--engine: 'podman' is not one of auto, docker, local"),
        ("up --memory lots", "--memory: 'lots' is not"),
        ("up --boot-timeout nan", "--boot-timeout: 'nan' is not"),
        ("images --cache-dir /etc/hostname", "--cache-dir: '/etc/hostname' is not a directory"),
        ("build --tag a:b", "--base-image and --tag require --container"),
        ("build --nodes 3", "--nodes has no effect on an image"),
        ("build --prepare-again", "--prepare-again has no effect on an image"),
        ("build --prepare nowhere.sh", "--prepare: 'nowhere.sh' does not exist"),
        ("ssh pi-1", "The node 'pi-1' does not exist"),
        ("console c-1/pi-1", "The node 'c-1/pi-1' does not exist"),
        ("down c-nobody", "The cluster 'c-nobody' does not exist"),
    ],
)
def test_bad_value_is_wrong_usage(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that is impossible ends with status 2 and a message that names the option."""
    assert cli.main(line.split()) == 2
    assert f"pidoc: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model pi3", "QEMU cannot save pi3 with its network card plugged in, so each start prepares them anew"),
        ("--start cold", "start=cold boots each node, so each start prepares them anew"),
        ("--container pidoc", "--container has no effect with --prepare"),
    ],
)
def test_cluster_that_is_never_saved_is_wrong_usage(
    options: str, message: str, tmp_path: Path, no_settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be prepared beforehand, which is said before an image is built."""
    script = tmp_path / "setup.sh"
    script.touch()

    assert cli.main(["build", "--prepare", str(script), *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert not no_settings.exists()


def test_bad_variable_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable around the command is named as a variable."""
    monkeypatch.setenv("PIDOC_NODES", "three")

    assert cli.main(["ps"]) == 2
    assert "pidoc: PIDOC_NODES: 'three' is not" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["up --engine docker", "up", "pull docker://registry.example.org/pidoc:1"])
def test_failure_is_status_1(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is right but cannot be done here ends with status 1 and what to try."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert cli.main(line.split()) == 1
    err = capsys.readouterr().err
    assert "No Docker daemon listens" in err
    assert "Try: " in err


def test_messages_are_no_tracebacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure is a sentence, on standard error alone."""
    monkeypatch.setenv("PATH", "/nowhere")
    cli.main(["up"])
    out, err = capsys.readouterr()

    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["doctor", "images", "ps"])
def test_json_is_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--json``, standard output is one JSON value and nothing else."""
    cli.main([command, "--json"])

    assert isinstance(json.loads(capsys.readouterr().out), list)


@pytest.mark.parametrize("line", ["doctor", "images", "ps", "up", "bench start"])
def test_json_where_a_script_reads(line: str) -> None:
    """Every command that lists or measures can print JSON."""
    assert make_parser().parse_args([*line.split(), "--json"]).json


def test_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A Ctrl-C ends with the status that shells expect, and without a traceback."""

    def interrupted(options: object, settings: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_pidoc.commands.clusters.ps", interrupted)

    assert cli.main(["ps"]) == 130
    assert capsys.readouterr().err.startswith("pidoc: interrupted")


def test_command_of_ssh_keeps_its_options() -> None:
    """What stands behind the node is the command's, dashes and all."""
    options = cli.parse(["ssh", "pi-2", "--", "ls", "--all", "-l", "--", "x"])

    assert options.node == "pi-2"
    assert options.words == ["ls", "--all", "-l", "--", "x"]


def test_command_of_ssh_is_no_node() -> None:
    """Without a node it is run on the first."""
    options = cli.parse(["ssh", "--", "uname", "-a"])

    assert options.node == "pi-1"
    assert options.words == ["uname", "-a"]


def test_words_that_no_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["ps", "--", "uname"])
    assert "unrecognized arguments: uname" in capsys.readouterr().err
