"""Nodes of fixtures with a wider scope than a test, as the user of a test suite sees them."""

from __future__ import annotations

from pathlib import Path

import fabric  # noqa: F401 # before pytester, which forgets what is imported in a test; OpenSSL's cannot be twice
import pytest

from pytest_pidoc.cluster import Cluster

pytestmark = pytest.mark.qemu


@pytest.fixture
def run(pytester: pytest.Pytester, inner_clusters: Path):  # type: ignore[no-untyped-def]
    """Run test files with a conftest in a pytest of its own; at the end there is no cluster."""

    def run(*arguments: str, conftest: str = "", **files: str) -> pytest.RunResult:
        pytester.makeconftest(conftest)
        pytester.makepyfile(**files)
        result = pytester.runpytest_subprocess(*arguments, timeout=600)
        assert not list(inner_clusters.glob("pidoc-*/c-*")), "nothing is left"
        return result

    return run


def test_nodes_live_as_long_as_their_fixture(run) -> None:  # type: ignore[no-untyped-def]
    """Or as the session, if the fixture does not end them; what one test changes, the next one finds."""
    result = run(
        conftest="""
        import pytest

        @pytest.fixture(scope="module")
        def pair(pidoc_boot):
            with pidoc_boot(2, memory="256M") as cluster:
                yield cluster

        @pytest.fixture(scope="class")
        def single(pidoc_boot):
            return pidoc_boot()[0]

        seen = {}

        @pytest.fixture(scope="session")
        def seen_before():
            return seen
        """,
        test_one="""
        def test_first(pair, pidoc_cluster, seen_before):
            assert [pi.name for pi in pair] == ["pi-1", "pi-2"]
            assert len(pidoc_cluster) == 1
            pair[0].run("touch pair-was-here")
            pidoc_cluster[0].run("touch cluster-was-here")
            seen_before.update(pair=pair, cluster=pidoc_cluster)

        def test_second(pair, pidoc_cluster, seen_before):
            assert pair is seen_before["pair"]
            assert pair[0].run("ls").stdout == "pair-was-here\\n"

        class TestClass:
            def test_single(self, single, seen_before):
                seen_before["single"] = single

            def test_single_again(self, single, seen_before):
                assert single is seen_before["single"]
        """,
        test_two="""
        def test_other_module(pair, pidoc_cluster, single, seen_before):
            assert not seen_before["pair"].directory.exists()
            assert pair[0].run("ls").stdout == ""
            assert pidoc_cluster is seen_before["cluster"]
            assert pidoc_cluster[0].run("ls").stdout == "cluster-was-here\\n"
            assert single is not seen_before["single"]
            assert seen_before["single"].run("true").ok  # nobody has ended it

        def test_several_fixtures(pidoc_cluster, pi, boot_pi, seen_before):
            private = boot_pi()
            assert len({pidoc_cluster[0].port, pi.port, private[0].port}) == 3
            seen_before["private"] = private

        def test_function_scope_is_gone(seen_before):
            assert not seen_before["private"].directory.exists()
        """,
    )

    result.assert_outcomes(passed=7)


def test_evidence_of_nodes_that_tests_share(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """A failure shows the nodes that its test has by its fixtures, and no others; so do those of a fixture."""
    result = run(
        "--pidoc-artifacts=evidence",
        conftest="""
        import pytest

        def say(cluster, text):
            cluster[0].sudo(f"sh -c 'echo {text} > /dev/console'")

        @pytest.fixture(scope="module")
        def broker(pidoc_boot):
            with pidoc_boot(memory="256M") as cluster:
                say(cluster, "broker was set up")
                yield cluster[0].port

        @pytest.fixture(scope="module")
        def never(pidoc_boot):
            with pidoc_boot(memory="128M") as cluster:
                say(cluster, "never was set up")
                cluster[0].run("echo to stderr >&2; false")
                yield cluster

        @pytest.fixture(scope="module")
        def uneasy(pidoc_boot):
            with pidoc_boot(memory="192M") as cluster:
                yield
                say(cluster, "uneasy is torn down")
                assert False, "in the teardown"
        """,
        test_one="""
        def test_fine(broker, uneasy):
            pass

        def test_fails(broker):
            assert broker == 0

        def test_without_nodes():
            assert False

        def test_error(never):
            pass

        def test_dynamic(request, pidoc_cluster):
            assert request.getfixturevalue("broker") == 0

        def test_last():
            pass
        """,
    )

    result.assert_outcomes(passed=2, failed=3, errors=2)
    folders = {path.name.split("-")[1]: path for path in (pytester.path / "evidence").iterdir()}
    assert sorted(folders) == ["test_dynamic", "test_error", "test_fails", "test_last"]
    assert "broker was set up" in Path(folders["test_fails"], "pi-1", "serial.log").read_text(errors="replace")
    assert "never was set up" in Path(folders["test_error"], "pi-1", "serial.log").read_text(errors="replace")
    assert "uneasy is torn down" in "".join(
        path.read_text(errors="replace") for path in folders["test_last"].rglob("serial.log")
    )


def test_nodes_of_a_failed_fixture_outlive_the_run(  # type: ignore[no-untyped-def]
    pytester: pytest.Pytester, inner_clusters: Path
) -> None:
    """With ``--pidoc-keep=on-failure``, those that a failed test used, as the last test left them; no others."""
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="module")
        def good(pidoc_boot):
            with pidoc_boot(memory="256M") as cluster:
                yield cluster[0]

        @pytest.fixture(scope="module")
        def bad(pidoc_boot):
            with pidoc_boot(memory="256M") as cluster:
                yield cluster[0]

        def test_fails(bad):
            bad.run("touch one")
            assert False

        def test_others(bad, good, pidoc_cluster):
            bad.run("touch other")
    """)
    result = pytester.runpytest_subprocess("--pidoc-keep=on-failure", timeout=600)

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*= pidoc: nodes that are still running =*", "pidoc ssh c-*/pi-1", "pidoc down c-*"])
    (directory,) = inner_clusters.glob("pidoc-*/c-*")
    with Cluster.attach(directory) as cluster:  # and takes it down
        assert cluster[0].run("ls").stdout == "one\nother\n"


@pytest.mark.parametrize("end", ["pass", "raise KeyboardInterrupt"])
def test_nodes_that_are_up_when_the_tests_end_outlive_the_run(  # type: ignore[no-untyped-def]
    pytester: pytest.Pytester, inner_clusters: Path, end: str
) -> None:
    """With ``--pidoc-keep=always``, those of the session and of the last module; after a Ctrl-C, too."""
    pytester.makepyfile(
        test_one="""
        import pytest

        @pytest.fixture(scope="module")
        def early(pidoc_boot):
            with pidoc_boot(memory="256M") as cluster:
                yield cluster

        def test_first(early, boot_pi):
            boot_pi()
        """,
        test_two=f"""
        import pytest

        @pytest.fixture(scope="module")
        def late(pidoc_boot):
            with pidoc_boot(memory="256M") as cluster:
                yield cluster

        def test_last(late, pidoc_cluster, boot_pi):
            print("LATE", late.name, pidoc_cluster.name)
            boot_pi()
            {end}
        """,
    )
    result = pytester.runpytest_subprocess("-s", "--pidoc-keep=always", timeout=600)

    (line,) = (line for line in result.outlines if "LATE" in line)
    directories = list(inner_clusters.glob("pidoc-*/c-*"))
    for directory in directories:
        Cluster.attach(directory).down()
    names = line.split()[-2:]
    assert sorted(directory.name for directory in directories) == sorted(names)
    result.stdout.fnmatch_lines_random([f"pidoc down {name}" for name in names])


def test_workers_have_nodes_of_their_own(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """Each sets its fixtures up once; what tests lease beside them is shared as ever."""
    result = run(
        "-n2",
        "--dist=loadgroup",
        conftest="""
        import pathlib, pytest

        @pytest.fixture(scope="session")
        def lab(pidoc_boot, tmp_path_factory):
            with pidoc_boot(2, memory="256M") as cluster:
                cluster[0].run("echo 1 > count")
                yield cluster
        """,
        test_it="""
        import pathlib, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_counts(number, lab, pidoc_cluster, pi, worker_id):
            lab[1].run("ping -c 1 -W 5 pi-1")
            with pathlib.Path("seen").open("a") as seen:
                seen.write(f"{worker_id} {lab.name} {pidoc_cluster.name}\\n")

        def test_fails(lab):
            assert False
        """,
    )

    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*= pidoc: logs of failed tests =*", "*/pidoc/*-test_fails-*"])
    seen = {tuple(line.split()) for line in (pytester.path / "seen").read_text().splitlines()}
    assert {worker for worker, *_ in seen} == {"gw0", "gw1"}
    assert len(seen) == 2
    assert len({name for _, *names in seen for name in names}) == 4


def test_who_holds_the_nodes_is_said_where_there_is_no_room(run) -> None:  # type: ignore[no-untyped-def]
    """A test that needs more than fixtures have left hears at once which fixtures they are."""
    result = run(
        conftest="""
        from pytest_pidoc.lifecycle import capacity

        capacity.memory = lambda: 1000 * 2**20  # as on a small machine
        """,
        test_one="""
        def test_pair(pidoc_cluster):
            pass

        def test_too_many(pidoc_cluster, pi):
            pass
        """,
    )

    result.assert_outcomes(passed=1, errors=1)
    # In a worker it says of which.
    result.stdout.fnmatch_lines(["*NoRoom: 1 x pi3-virt can use *", "*    c-*: the fixture pidoc_cluster*"])
