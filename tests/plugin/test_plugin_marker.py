"""What a user sees of the marker."""

from __future__ import annotations

import pytest

from pytest_pidoc.settings.table import MARKER_SIGNATURE


def marked(pytester: pytest.Pytester, marker: str) -> pytest.RunResult:
    """Run a test with a marker."""
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.{marker}
        def test_marked(pi):
            pass
        """
    )
    return pytester.runpytest()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("pidoc(node=3)", "the marker pidoc has no argument 'node'"),
        ("pidoc(cache_dir='/x')", "the marker pidoc has no argument 'cache_dir'"),
        ("pidoc(nodes=0)", "nodes of the marker pidoc: 0 is not a whole number from 1 to 250"),
        ("pidoc(nodes=-1)", "nodes of the marker pidoc: -1 is not a whole number from 1 to 250"),
        ("pidoc(nodes='three')", "nodes of the marker pidoc: 'three' is not a whole number from 1 to 250"),
        ("pidoc(nodes=10_000)", "nodes of the marker pidoc: 10000 is not a whole number from 1 to 250"),
        ("pidoc(nodes=True)", "nodes of the marker pidoc: True is not a whole number from 1 to 250"),
        ("pidoc(0)", "nodes of the marker pidoc: 0 is not a whole number from 1 to 250"),
        ("pidoc(3, 'pi3-virt')", "The marker pidoc takes one positional argument, nodes"),
        ("pidoc(3, nodes=3)", "The marker pidoc takes one positional argument, nodes"),
        ("pidoc(fresh='x')", "fresh of the marker pidoc: 'x' is not True or False"),
        ("pidoc(shared='x')", "shared of the marker pidoc: 'x' is not True or False"),
        ("pidoc(fresh=True, shared=True)", "The marker pidoc takes fresh=True or shared=True, not both"),
        ("pidoc(fresh=1)", "fresh of the marker pidoc: 1 is not True or False"),
        ("pidoc(model='pi9')", "model of the marker pidoc: 'pi9' is not one of pi3-virt"),
        ("pidoc(engine='podman')", "engine of the marker pidoc: 'podman' is not one of auto, docker, local"),
        ("pidoc(memory='lots')", "memory of the marker pidoc: 'lots' is not a size such as 512M or 1G"),
        ("pidoc(cpus=0)", "cpus of the marker pidoc: 0 is not a number of CPUs"),
        ("pidoc(boot_timeout=0)", "boot_timeout of the marker pidoc: 0 is not a number of seconds"),
        ("pidoc(prepare='no.sh')", "prepare of the marker pidoc: 'no.sh' does not exist in /"),
        ("pidoc(prepare=lambda pis: 1)", "prepare of the marker pidoc: a lambda is not supported"),
        ("pidoc(prepare=3)", "prepare of the marker pidoc: 3 is neither a function, nor the path of a script"),
        ("pidoc(prepare_files='*.deb')", "prepare_files of the marker pidoc: '*.deb' matches no file in /"),
        ("pidoc(image='')", "image of the marker pidoc: '' is not an image"),
    ],
)
def test_bad_marker_is_a_usage_error(pytester: pytest.Pytester, marker: str, message: str) -> None:
    """A bad marker ends the run before anything is booted, with the test, the fault and the signature."""
    result = marked(pytester, marker)
    text = result.stdout.str() + result.stderr.str()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"test_bad_marker_is_a_usage_error.py::test_marked: {message}" in text
    assert MARKER_SIGNATURE in text or "prepare" in marker  # where a path or a function is the better tip
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text


def test_bad_marker_on_a_module(pytester: pytest.Pytester) -> None:
    """A marker on a module is read for its tests."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.pidoc(nodes=0)

        def test_marked():
            pass
        """
    )

    assert pytester.runpytest().ret == pytest.ExitCode.USAGE_ERROR


def test_bad_marker_with_workers(pytester: pytest.Pytester) -> None:
    """Under pytest-xdist a bad marker is its test's error, with the fault and the signature."""
    pytest.importorskip("xdist")
    pytester.makepyfile("import pytest\n@pytest.mark.pidoc(nodes=0)\ndef test_marked(pi): pass")
    result = pytester.runpytest_subprocess("-n1", timeout=120)

    result.assert_outcomes(errors=1)
    assert "nodes of the marker pidoc: 0 is not a whole number" in result.stdout.str()
    assert MARKER_SIGNATURE in result.stdout.str()


def test_closest_marker_wins(pytester: pytest.Pytester) -> None:
    """A marker on a test hides a bad one on its class: the closest one is the one that is read."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.pidoc(nodes=0)
        class TestPis:
            @pytest.mark.pidoc(nodes=2)
            def test_marked(self):
                pass
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_deselected_bad_marker_does_no_harm(pytester: pytest.Pytester) -> None:
    """What is not collected is not read."""
    pytester.makepyfile(test_good="def test_good(): pass")
    pytester.makepyfile(test_bad="import pytest\npytestmark = pytest.mark.pidoc(nodes=0)\ndef test_bad(): pass")

    pytester.runpytest("test_good.py").assert_outcomes(passed=1)


def test_markers_shows_the_signature(pytester: pytest.Pytester) -> None:
    """``pytest --markers`` says how the marker is used."""
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.pidoc(nodes=1, [*], model=None,*"])


def test_fixtures_are_shown_with_a_sentence(pytester: pytest.Pytester) -> None:
    """``pytest --fixtures`` has every fixture of the contract with its docstring."""
    text = pytester.runpytest("--fixtures").stdout.str()

    names = ("pidoc_settings", "pidoc_image", "pi_cluster", "pi", "pi_connection", "boot_pi")
    for name in (*names, "pidoc_boot", "pidoc_cluster"):
        entry = text.partition(f"\n{name} ")[2]
        assert entry, name
        assert "no docstring" not in entry.splitlines()[1], name


#: What ``pidoc_cluster`` gives here: no node is needed to see what the marker asks for.
CLUSTER = """
    import pytest
    from pytest_pidoc import Settings

    class Cluster:
        spec = Settings().spec({"nodes": 2})

    @pytest.fixture(scope="session")
    def pidoc_cluster(pidoc_boot):
        return Cluster()
"""


@pytest.mark.parametrize(
    ("marker", "asked"),
    [
        ("pidoc(3)", "nodes=3"),
        ("pidoc(nodes=2, model='pi3')", "model='pi3'"),
        ("pidoc(2, fresh=True, lan=False)", "fresh=True, lan=False"),
    ],
)
def test_marker_that_no_fixture_hears(pytester: pytest.Pytester, marker: str, asked: str) -> None:
    """It asks for nodes, and the test has those of the session: the message has the way out."""
    pytester.makeconftest(CLUSTER)
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_it(pidoc_cluster): pass")
    result = pytester.runpytest()

    result.assert_outcomes(failed=1)
    name = "test_marker_that_no_fixture_hears.py::test_it"
    result.stdout.fnmatch_lines(
        [
            f"{name}: The marker asks for {asked}, but pidoc_cluster is the same for all tests.",
            "Try: use pi_cluster, *pidoc_boot",
        ]
    )
    assert "def pytest_runtest_call" not in result.stdout.str()


def test_marker_that_asks_for_what_is_there(pytester: pytest.Pytester) -> None:
    """Nothing is wrong with that, nor if ``pi_cluster`` hears the marker."""
    pytester.makeconftest(CLUSTER)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.pidoc(nodes=2)
        def test_same(pidoc_cluster): pass

        @pytest.mark.pidoc
        def test_nothing(pidoc_cluster): pass

        def test_none(pidoc_cluster): pass

        @pytest.fixture
        def pi_cluster(): return []

        @pytest.mark.pidoc(nodes=3)
        def test_heard(pidoc_cluster, pi_cluster): pass
    """)

    pytester.runpytest().assert_outcomes(passed=4)


def test_who_gets_a_cluster_of_its_own(pytester: pytest.Pytester) -> None:
    """Who has its nodes prepared gets a fork, unless the marker says otherwise; paths lead from the test's folder."""
    pytester.makeini("[pytest]\npidoc_nodes = 2")
    pytester.path.joinpath("sub").mkdir()
    pytester.path.joinpath("sub", "setup.sh").write_text("true")
    pytester.path.joinpath("root.yml").write_text("[]")
    pytester.path.joinpath("sub", "test_it.py").write_text(
        """
import pytest
from pytest_pidoc.testrun.marker import read_marker

@pytest.fixture
def asked(request, pidoc_settings):
    found = read_marker(request.node, pidoc_settings)
    return found.fresh, found.shared, [step.name for step in found.spec.prepare]

def etcd(cluster): ...

def test_bare(asked):
    assert asked == (False, False, [])

@pytest.mark.pidoc(prepare=[etcd, "setup.sh", "root.yml"])
def test_fork(asked):
    assert asked == (True, False, ["etcd()", "setup.sh", "root.yml"])

@pytest.mark.pidoc(prepare=etcd, fresh=False)
def test_in_turn(asked):
    assert asked == (False, False, ["etcd()"])

@pytest.mark.pidoc(prepare=etcd, shared=True)
def test_shared(asked):
    assert asked == (False, True, ["etcd()"])
"""
    )
    pytester.runpytest("sub").assert_outcomes(passed=4)
    result = pytester.runpytest("sub", "--pidoc-prepare=sub/setup.sh", "-k", "bare")
    result.stdout.fnmatch_lines(["pidoc: *prepare setup.sh (from --pidoc-prepare)*", "*(True, False, [[]'setup.sh'])*"])
