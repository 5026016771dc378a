"""What a user of ``pi_benchmark`` sees where nothing is booted: bad input, the table, and the baseline's file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import docker  # noqa: F401 # so that the runs in this process do not import it again and again
import pytest

from pytest_pidoc.pi_benchmark.baseline import Conditions, Entry, read, update
from pytest_pidoc.pi_benchmark.fixture import Result
from pytest_pidoc.pi_benchmark.options import OPTIONS, PROPERTY

if TYPE_CHECKING:
    from pathlib import Path

CONDITIONS = Conditions("pi3-virt", 1000.0, "10.0.2", "debian:bookworm 0afe2b3be4cf")
FILE = "pidoc-benchmarks.json"


def result(name: str, value: float) -> Result:
    """Return what a benchmark finds."""
    metrics = {"instructions": value, "wall_time": 0.5}
    return Result(Entry(name, CONDITIONS, "./prog", None, metrics), "instructions", 3, 0.001, 150_000.0, 20.0)


def test_file(*tests: tuple[str, float, str]) -> str:
    """Return a test file whose tests report figures as pi_benchmark does, and then do something."""
    lines = ["import os, signal"]
    for name, value, then in tests:
        told = json.dumps(asdict(result(f"test_it.py::test_{name}", value)))
        lines += [f"def test_{name}(record_property):", f"    record_property({PROPERTY!r}, {told!r})", f"    {then}"]
    return "\n".join(lines)


test_file.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
def path(pytester: pytest.Pytester) -> Path:
    """Return a baseline of two benchmarks."""
    path = pytester.path / FILE
    update(path, [result("test_it.py::test_one", 1000).entry, result("test_it.py::test_other", 77).entry])
    return path


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--pidoc-benchmark-metric=cycles"], ["*--pidoc-benchmark-metric: 'cycles' is not one of instructions, *"]),
        (["--pidoc-benchmark-rounds=0"], ["*--pidoc-benchmark-rounds: '0' is not a whole number from 1 to 1000*"]),
        (["--pidoc-benchmark-rounds=many"], ["*--pidoc-benchmark-rounds: 'many' is not a whole number from 1 to *"]),
        (["--pidoc-benchmark-fail=2%"], ["*--pidoc-benchmark-fail: '2%' is not METRIC:N%, such as instructions:2%*"]),
        (
            ["--pidoc-model=pi1"],
            ["*test_pi: The model pi1 cannot count a program's instructions*", "*Try: use one of *"],
        ),
        (
            ["--pidoc-model=pi2-virt", "--pidoc-benchmark-fail=instructions:2%"],
            ["*The model pi2-virt cannot count*", "*Try: use one of the models pi3-virt*"],
        ),
    ],
)
@pytest.mark.usefixtures("no_engine")
def test_bad_option_ends_the_run_before_anything_is_booted(
    pytester: pytest.Pytester, arguments: list[str], messages: list[str]
) -> None:
    """The message says what would be right."""
    pytester.makepyfile("def test_pi(pi, pi_benchmark): pass")

    done = pytester.runpytest(*arguments)

    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(messages)


@pytest.mark.parametrize("marker", ["metric='cycles'", "rounds=0", "fail='2'", "rouns=3", "'instructions'"])
@pytest.mark.usefixtures("no_engine")
def test_bad_marker_ends_the_run(pytester: pytest.Pytester, marker: str) -> None:
    """It names the test."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.pidoc_benchmark({marker})\ndef test_pi(pi, pi_benchmark): pass")

    done = pytester.runpytest()

    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*::test_pi: *", "*Try: *"])


@pytest.mark.usefixtures("no_engine")
def test_metric_of_the_marker_is_what_the_model_must_give(pytester: pytest.Pytester) -> None:
    """A model without a counter has other metrics: the test comes as far as to need an engine."""
    pytester.makepyfile(
        "import pytest\n@pytest.mark.pidoc_benchmark(metric='guest_time')\ndef test_pi(pi, pi_benchmark): pass"
    )

    pytester.runpytest("--pidoc-model=pi1").assert_outcomes(skipped=1)


def test_corrupted_baseline_ends_the_run(pytester: pytest.Pytester) -> None:
    """Before anything is measured that could not be compared."""
    (pytester.path / FILE).write_text("{")
    pytester.makepyfile("def test_pi(pi, pi_benchmark): pass")

    for option in ("--pidoc-benchmark-compare", "--pidoc-benchmark-fail=instructions:2%", "--pidoc-benchmark-update"):
        done = pytester.runpytest(option)

        assert done.ret == pytest.ExitCode.USAGE_ERROR
        done.stderr.fnmatch_lines([f"*{FILE} cannot be read*", "*JSONDecodeError*", "*Try: *"])


def test_table_shows_the_difference(pytester: pytest.Pytester, path: Path) -> None:
    """With the noise floor; what is not in the baseline, or of another machine, says so."""
    other = replace(result("test_it.py::test_other", 77).entry, conditions=replace(CONDITIONS, model="pi4-virt"))
    path.unlink()
    update(path, [result("test_it.py::test_one", 1000).entry, other])
    pytester.makepyfile(test_it=test_file(("one", 1012, "pass"), ("other", 77, "pass"), ("new", 5, "pass")))

    done = pytester.runpytest("--pidoc-benchmark-compare")

    done.stdout.fnmatch_lines(
        [
            "*benchmarks on emulated Raspberry Pis*",
            "benchmark *metric *median *spread *empty command *rounds *baseline",
            "test_it.py::test_one * instructions * 1,012 * 0.100 % * 150,000 +- 10 * 3 * +1.20 %",
            "test_it.py::test_other * 77 * model: pi4-virt in the baseline, pi3-virt now",
            "test_it.py::test_new * 5 * none",
        ]
    )


def test_update_writes_what_passed(pytester: pytest.Pytester, path: Path) -> None:
    """What failed or was not run keeps its old figures."""
    pytester.makepyfile(test_it=test_file(("one", 2000, "assert False"), ("new", 5, "pass")))

    done = pytester.runpytest("--pidoc-benchmark-update")

    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines([f"*{FILE}: updated 1 of 3 benchmarks."])
    assert {entry.name.partition("::test_")[2]: entry.metrics["instructions"] for entry in read(path)} == {
        "one": 1000,
        "other": 77,
        "new": 5,
    }


def test_workers_send_their_figures_to_who_writes(pytester: pytest.Pytester, path: Path) -> None:
    """With pytest-xdist one process writes, once, what all have found."""
    names = [f"n{number}" for number in range(20)]
    pytester.makepyfile(test_it=test_file(*((name, number, "pass") for number, name in enumerate(names))))

    done = pytester.runpytest("-n2", "--pidoc-benchmark-update")

    done.assert_outcomes(passed=20)
    done.stdout.fnmatch_lines([f"*{FILE}: updated 20 of 22 benchmarks."])
    assert len(read(path)) == 22


def test_interrupted_run_leaves_the_baseline(pytester: pytest.Pytester, path: Path) -> None:
    """A Ctrl-C in the middle: nothing is written, and that is said."""
    before = path.read_bytes()
    pytester.makepyfile(
        test_it=test_file(("one", 5, "pass"), ("two", 5, "os.kill(os.getpid(), signal.SIGINT)"), ("three", 5, "pass"))
    )

    done = pytester.runpytest_subprocess("--pidoc-benchmark-update")

    assert done.ret == pytest.ExitCode.INTERRUPTED
    done.stdout.fnmatch_lines([f"*{FILE} is unchanged: the run was interrupted."])
    assert path.read_bytes() == before
    assert not list(pytester.path.glob(".pidoc*"))


def test_baseline_that_cannot_be_written_fails_the_run(pytester: pytest.Pytester) -> None:
    """It is told, and the exit status is not that of success."""
    pytester.makepyfile(test_it=test_file(("one", 5, "pass")))

    done = pytester.runpytest("--pidoc-benchmark-update", f"--pidoc-benchmark-file=gone/{FILE}")

    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines([f"The baseline *gone/{FILE} cannot be written: No such file or directory."])


def test_settings_come_from_the_environment_and_the_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is the stronger one, and an option the strongest."""
    pytester.makeini("[pytest]\npidoc_benchmark_metric = ini_value\n")
    pytester.makepyfile("def test_pi(pi, pi_benchmark): pass")

    for arguments, variable, seen in (
        ((), None, "pidoc_benchmark_metric in the ini file: 'ini_value'"),
        ((), "variable", "PIDOC_BENCHMARK_METRIC: 'variable'"),
        (("--pidoc-benchmark-metric=option",), "variable", "--pidoc-benchmark-metric: 'option'"),
    ):
        if variable:
            monkeypatch.setenv("PIDOC_BENCHMARK_METRIC", variable)
        done = pytester.runpytest(*arguments)
        done.stderr.fnmatch_lines([f"*{seen} is not one of instructions, *"])


def test_run_without_benchmarks_says_nothing_of_them(pytester: pytest.Pytester) -> None:
    """There is no table."""
    pytester.makepyfile("def test_it(): pass")

    assert "benchmarks on" not in pytester.runpytest().stdout.str()


def test_header_names_the_source(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header says what was chosen for benchmarks, and where."""
    pytester.makepyfile("def test_it(): pass")
    pytester.makeini("[pytest]\npidoc_benchmark_fail = instructions:2%\n")
    monkeypatch.setenv("PIDOC_BENCHMARK_ROUNDS", "5")

    pytester.runpytest("--pidoc-benchmark-metric=wall_time").stdout.fnmatch_lines(
        [
            "pidoc benchmarks: benchmark_metric wall_time (from --pidoc-benchmark-metric), benchmark_rounds 5 (from"
            " PIDOC_BENCHMARK_ROUNDS), benchmark_fail instructions:2% (from pidoc_benchmark_fail in the ini file)"
        ]
    )


def test_help_has_every_option(pytester: pytest.Pytester) -> None:
    """Each option is in pytest's help, with its ini key and its variable."""
    text = "".join(pytester.runpytest("--help").stdout.str().split())

    for option in OPTIONS:
        described = f"{option.help} [ini: {option.ini}, environment: {option.variable}]"
        assert option.option in text
        assert "".join(described.split()) in text


@pytest.mark.parametrize(
    ("test", "imported"), [("def test_it(): pass", False), ("def test_it(pi_benchmark): pass", True)]
)
def test_what_measures_is_imported_when_it_is_used(pytester: pytest.Pytester, test: str, imported: bool) -> None:
    """A run without a node does not pay for what measures, nor for the table of models."""
    pytester.makepyfile(test)
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            for name in ("pi_benchmark.fixture", "pi_benchmark.baseline", "machines"):
                print("heavy" if f"pytest_pidoc.{name}" in sys.modules else "light")
        """
    )
    done = pytester.runpytest_subprocess("-s")

    assert done.stdout.str().count("heavy") == (3 if imported else 0)
    assert done.stdout.str().count("light") == (0 if imported else 3)
