"""Benchmarks as tests, on real nodes: the figures repeat, a small slow-down fails, and each fault is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fabric  # noqa: F401 # before pytester, which forgets what is imported in a test; OpenSSL's cannot be twice
import pytest

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.pi_benchmark.measure import measure
from pytest_pidoc.pi_benchmark.metrics import METRICS

pytestmark = pytest.mark.qemu

FILE = "pidoc-benchmarks.json"
Run = Callable[..., pytest.RunResult]

SUITE = """
import os
import pytest
from pytest_pidoc import BenchmarkError

LOOPS = int(os.environ.get("LOOPS", "500000"))
COMMAND = f"python3 -c 'for number in range({LOOPS}): pass'"

def test_loop(pi, pi_benchmark):
    found = pi_benchmark(pi, COMMAND)
    assert found.spread < 0.0002
    assert found.floor < found.value / 10
    assert set(found.entry.metrics) == {"instructions", "guest_time", "virtual_time", "wall_time"}

def test_two(pi, pi_benchmark):
    assert pi_benchmark(pi, "test -e made", setup="touch made", name="first").entry.program
    with pytest.raises(BenchmarkError, match="two commands under one name: test_suite.py::test_two/first"):
        pi_benchmark(pi, "true", name="first")
    pi_benchmark(pi, "true", name="second")

def test_faults(pi, pi_benchmark):
    with pytest.raises(BenchmarkError, match="failed with status 4") as caught:
        pi_benchmark(pi, "echo why; exit 4", name="failing")
    assert "why" in caught.value.evidence
    with pytest.raises(BenchmarkError, match="Only part of .* was counted"):
        pi_benchmark(pi, "sudo true", name="root")
    assert pi.run("cat /proc/sys/kernel/perf_event_paranoid").stdout.strip() == "1"
"""


@pytest.fixture
def run(pytester: pytest.Pytester, inner_clusters: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the suite in a pytest of its own."""
    pytester.makepyfile(test_suite=SUITE)

    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)  # the runs are no worker's, which pytest-benchmark would not measure

    def run(*arguments: str, loops: int = 500_000) -> pytest.RunResult:
        monkeypatch.setenv("LOOPS", str(loops))
        return pytester.runpytest_subprocess(*arguments, timeout=600)

    return run


@pytest.fixture(scope="module")
def made(settings: Settings, image: Image, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the baseline that a run of the whole suite makes; pytester lives too short for it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "test_suite.py").write_text(SUITE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PIDOC_CACHE_DIR": str(settings.cache_dir), "PIDOC_ENGINE": "local", "PIDOC_REQUIRE": "yes"}
    command = [sys.executable, "-m", "pytest", "--rootdir=.", "--pidoc-benchmark-update"]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, timeout=600, check=False
    )
    assert "3 passed" in done.stdout, done.stdout
    return (folder / FILE).read_bytes()


@pytest.fixture
def baseline(made: bytes, pytester: pytest.Pytester) -> Path:
    """Give the suite of `run` that baseline."""
    path = pytester.path / FILE
    path.write_bytes(made)
    return path


def test_baseline_has_each_benchmark_and_its_conditions(made: bytes) -> None:
    """It names the tests that measured, those with several benchmarks by these too, and the model."""
    data = json.loads(made)

    names = ["test_suite.py::test_loop", "test_suite.py::test_two/first", "test_suite.py::test_two/second"]
    assert [each["name"] for each in data["benchmarks"]] == names
    assert data["benchmarks"][0]["conditions"]["model"] == "pi3-virt"


def test_same_program_meets_its_baseline(run: Run, baseline: Path) -> None:
    """On new nodes it costs the same within half a percent, and the baseline stays as it is."""
    before = baseline.read_bytes()

    run("--pidoc-benchmark-fail=instructions:0.5%", "-k", "loop").assert_outcomes(passed=1)

    assert baseline.read_bytes() == before


def test_baseline_of_another_model_is_refused(run: Run, baseline: Path) -> None:
    """Figures of different models are not compared: the test fails, and its message names both models."""
    data = json.loads(baseline.read_bytes())
    data["benchmarks"][1]["conditions"]["model"] = "pi4-virt"
    del data["benchmarks"][2]
    baseline.write_text(json.dumps(data))
    before = baseline.read_bytes()

    done = run("--pidoc-benchmark-fail=instructions:0.5%", "-k", "two")

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "*The baseline of test_suite.py::test_two/first was recorded under other conditions*",
            "*model: pi4-virt in the baseline*",
        ]
    )
    assert baseline.read_bytes() == before


def test_slower_program_misses_its_baseline(run: Run, baseline: Path) -> None:
    """Three percent more loops fail; the message has both figures, what changed, and how to accept it."""
    before = baseline.read_bytes()

    done = run("--pidoc-benchmark-fail=instructions:0.5%", "-k", "loop", loops=515_000)

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "*BenchmarkSlower: test_suite.py::test_loop is slower than its baseline.",
            "*instructions: * before, * now: +*, allowed +0.5 %",
            "*The command has changed from *500000* to *515000*",
            "*Try: run pytest 'test_suite.py::test_loop' --pidoc-benchmark-update, if the change is intended",
        ]
    )
    assert baseline.read_bytes() == before


def test_pytest_benchmark_gets_the_figures(run: Run, pytester: pytest.Pytester) -> None:
    """Its storage has each round as a number of instructions, and its table says so."""
    pytest.importorskip("pytest_benchmark")

    done = run("-k", "loop", "--benchmark-json=stored.json", "--benchmark-only")

    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*benchmark 'pidoc: instructions': 1 tests*", "Name (time in instructions)*"])
    (stored,) = json.loads((pytester.path / "stored.json").read_text())["benchmarks"]
    assert stored["stats"]["rounds"] == 3
    assert stored["stats"]["median"] == stored["extra_info"]["metrics"]["instructions"]
    assert stored["extra_info"]["conditions"]["model"] == "pi3-virt"


def test_clock_counts_in_a_node(settings: Settings, image: Image) -> None:
    """A nanosecond of the guest's is an instruction, and both repeat, after a new fork, too.

    Some hundred instructions may be more when an interrupt comes at another place: 333 of 299 million were seen.
    """
    loop = "python3 -c 'sum(range(2000000))'"
    with Cluster.up(nodes=1, engine="local", mips=1000, settings=settings) as cluster:
        pi = cluster[0]
        found = measure(pi, loop, wanted=METRICS["instructions"], rounds=3)
        pi.reset()
        again = measure(pi, loop, wanted=METRICS["instructions"], rounds=3)

    counted = (*found.rounds["instructions"], *again.rounds["instructions"])
    instructions = min(counted)
    assert max(counted) - instructions < 1e-5 * instructions
    for seconds in (*found.rounds["guest_time"], *again.rounds["guest_time"]):
        assert instructions <= seconds * 1e9 < 1.1 * instructions  # the rest is the kernel's, for the program
    assert (pi.clock.mips, pi.clock.counts_instructions) == (1000, True)
