"""The plugin under pytest-xdist: clusters are shared, leased, and gone at the end, whatever happens to a worker."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import fabric  # noqa: F401 # before pytester, which forgets what is imported in a test; OpenSSL's cannot be twice
import pytest

pytestmark = pytest.mark.qemu


@pytest.fixture
def run(pytester: pytest.Pytester, inner_clusters: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Run a test file with workers; at the end there is no cluster."""
    monkeypatch.setenv("NOTES", str(pytester.mkdir("notes")))
    # What each test writes down: the cluster that it had, from when to when.
    pytester.makeconftest("""
        import os, pathlib, time
        import pytest

        @pytest.fixture
        def note(request, pi_cluster):
            began = time.monotonic()
            yield
            line = f"{pi_cluster.name} {began} {time.monotonic()} {pi_cluster[0].run('cat /etc/machine-id').stdout}"
            pathlib.Path(os.environ["NOTES"], request.node.name).write_text(line)
        """)

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        result = pytester.runpytest_subprocess(*arguments, timeout=600)
        assert not list(inner_clusters.glob("pidoc-*/c-*")), "nothing is left"
        return result

    return run


def notes(pytester: pytest.Pytester) -> list[tuple[str, float, float, str]]:
    """Return what the tests wrote down: cluster, begin, end, and its first node's machine id."""
    found = [path.read_text().split() for path in Path(pytester.path, "notes").iterdir()]
    return [(cluster, float(began), float(ended), machine) for cluster, began, ended, machine in found]


def overlaps(taken: list[tuple[str, float, float, str]]) -> int:
    """Return how many pairs of tests had one cluster at the same time."""
    return sum(
        one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
        for number, one in enumerate(taken)
        for other in taken[:number]
    )


def test_workers_take_turns(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """No two tests have a cluster at once, and there are no more clusters than workers."""
    result = run(
        """
        import time, pytest

        @pytest.mark.parametrize("number", range(12))
        def test_waits(number, pi, note):
            time.sleep(0.5)
            assert pi.run("mkdir mine").ok
            pi.run("rmdir mine")
        """,
        "-n3",
    )

    result.assert_outcomes(passed=12)
    taken = notes(pytester)
    assert overlaps(taken) == 0
    assert len({cluster for cluster, *_ in taken}) <= 3
    assert len({machine for *_, machine in taken}) == len({cluster for cluster, *_ in taken})


def test_who_shares_has_one_cluster(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """Started once, used by all at the same time."""
    result = run(
        """
        import time, pytest

        @pytest.mark.pidoc(shared=True)
        @pytest.mark.parametrize("number", range(8))
        def test_looks(number, pi, note):
            time.sleep(1)
        """,
        "-n3",
    )

    result.assert_outcomes(passed=8)
    taken = notes(pytester)
    assert len({cluster for cluster, *_ in taken}) == 1
    assert overlaps(taken) > 0


def test_each_worker_has_its_own(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """If that is asked for, also where sharing would do."""
    result = run(
        """
        import time, pytest

        @pytest.mark.pidoc(shared=True)
        @pytest.mark.parametrize("number", range(4))
        def test_looks(number, pi, note):
            time.sleep(1)
        """,
        "-n2",
        "--pidoc-workers=own",
    )

    result.assert_outcomes(passed=4)
    assert len({cluster for cluster, *_ in notes(pytester)}) == 2


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 11)"])
def test_nodes_of_a_crashed_worker_are_nobodys(
    run,  # type: ignore[no-untyped-def]
    end: str,
    pytester: pytest.Pytester,
) -> None:
    """They are ended at once, since nobody knows their state, and the others go on. What they said is kept."""
    result = run(
        f"""
        import os, time, pytest

        def test_fails(pi):
            assert pi.run("false", warn=True).ok

        def test_crashes(pi):
            pi.run("touch spoilt")
            {end}

        @pytest.mark.parametrize("number", range(4))
        def test_others(number, pi):
            assert pi.run("ls").stdout == ""
            time.sleep(0.2)
        """,
        "-n2",
        "--pidoc-artifacts=evidence",
    )

    result.assert_outcomes(failed=2, passed=4)
    result.stdout.fnmatch_lines(["*worker 'gw*' crashed while running*test_crashes*"])
    folders = sorted((pytester.path / "evidence").iterdir())
    assert [folder.name.split("-")[1] for folder in folders] == ["test_crashes", "test_fails"]
    assert [(folder / "pi-1" / "serial.log").exists() for folder in folders] == [True, True]
    result.stdout.fnmatch_lines_random(["*= pidoc: logs of failed tests =*", *map(str, folders)])


@pytest.mark.parametrize(
    "arguments", [("--dist=loadscope",), ("--dist=worksteal",), ("--maxfail=1",), ("--reruns=1",)], ids="".join
)
def test_other_ways_to_run(run, arguments: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    """What a test spoils is its own affair, however tests are distributed."""
    result = run(
        """
        import pathlib, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_good(number, pi):
            assert pi.run("true").ok

        def test_bad(pi, tmp_path_factory):
            pi.power_cut()
            again = tmp_path_factory.getbasetemp() / "again"
            first, _ = not again.exists(), again.touch()
            assert not first
        """,
        "-n2",
        *arguments,
    )

    outcomes = result.parseoutcomes()
    if "--reruns=1" in arguments:
        assert outcomes == {"passed": 7, "rerun": 1}
    else:
        assert outcomes["failed"] == 1


def test_what_does_not_fit_waits_its_turn(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """With room for one cluster, two workers that want different ones make room for each other."""
    result = run(
        """
        import pytest
        from pytest_pidoc.lifecycle import capacity

        capacity.memory = lambda: 1000 * 2**20  # as on a small machine

        @pytest.mark.parametrize("number", range(3))
        def test_one(number, pi, note):
            assert pi.run("true").ok

        @pytest.mark.pidoc(internet=False)
        @pytest.mark.parametrize("number", range(3))
        def test_other(number, pi, note):
            assert pi.run("true").ok

        @pytest.mark.pidoc(nodes=3)
        def test_too_large(pi):
            assert False
        """,
        "-n2",
    )

    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(["*3 x pi3-virt can use 1836 MiB, but this host has 900 MiB for nodes.*"])
    taken = sorted(notes(pytester), key=lambda note: note[1])
    assert all(one[2] <= other[1] for one, other in pairwise(taken)), "one at a time"
