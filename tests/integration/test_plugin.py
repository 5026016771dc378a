"""The plugin with real nodes: what the user of a test suite sees."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import fabric  # noqa: F401 # before pytester, which forgets what is imported in a test; OpenSSL's cannot be twice
import pytest
from support import PIDOC

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import NodeDied

pytestmark = pytest.mark.qemu


@pytest.fixture
def run(pytester: pytest.Pytester, inner_clusters: Path):  # type: ignore[no-untyped-def]
    """Run a test file in a pytest of its own, on the engine local and the session's cache."""

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        result = pytester.runpytest_subprocess(*arguments, timeout=600)
        assert list(inner_clusters.glob("pidoc-*")), "nodes were started here"
        assert not list(inner_clusters.glob("pidoc-*/c-*")), "and nothing of them is left"
        return result

    return run


def test_markers_and_fixtures(run) -> None:  # type: ignore[no-untyped-def]
    """Equal markers share a cluster, the closest marker wins, ``fresh`` and ``boot_pi`` give nodes of one's own."""
    result = run("""
        import pytest

        names = {}

        @pytest.mark.pidoc(nodes=2)
        class TestShared:
            def test_first(self, pi_cluster):
                assert len(pi_cluster) == 2
                names["shared"] = pi_cluster.name

            def test_second(self, pi_cluster, pi, pi_connection, pidoc_settings, pidoc_image):
                assert pi_cluster.name == names["shared"]
                assert pi is pi_cluster[0]
                assert pi_connection is pi.connection
                assert pidoc_settings.engine == "local"
                assert pidoc_image.file("kernel").exists()

            @pytest.mark.pidoc(nodes=2, fresh=True)
            def test_fresh(self, pi_cluster):
                assert pi_cluster.name != names["shared"]
                names["fresh"] = pi_cluster

            def test_fresh_is_gone(self):
                assert not names["fresh"].directory.exists()

            def test_own(self, boot_pi):
                own = boot_pi(nodes=1, memory="384M")
                assert own.name != names["shared"]
                total = int(own[0].run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout)
                assert total < 400 * 1024
        """)

    result.assert_outcomes(passed=5)


def test_a_failed_test_shows_the_serial_log(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]
    """The report of a failure has a section per node, and names the folder with the logs, which outlives the run."""
    result = run(
        """
        import pytest

        @pytest.mark.pidoc(nodes=2)
        def test_fails(pi_cluster):
            pi_cluster[1].sudo("sh -c 'echo the last words > /dev/console'")
            pi_cluster[1].run("timeout 5 bash -c '</dev/tcp/10.0.2.2/9'", warn=True)
            with pi_cluster.partition([pi_cluster[0]]):
                assert False
        """,
        "--pidoc-artifacts=evidence",
    )

    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r".*faults of c-", r"\d\d:\d\d:\d\d\.\d{3} partition pi-1 \| pi-2, undone after \d"])
    result.stdout.fnmatch_lines(
        [
            "*pi-1 serial log, last lines*",
            "--- the test got the node here ---",
            "*pi-2 serial log, last lines*",
            "--- the test got the node here ---",
            "*the last words*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*connections to the host that pi-2 was refused*", "127.0.0.1 port 9", "Try: use host_access=True*"]
    )
    (folder,) = (pytester.path / "evidence").glob("test_a_failed_test_shows_the_serial_log.py-test_fails-*")
    assert "the last words" in Path(folder, "pi-2", "serial.log").read_text(errors="replace")
    assert Path(folder, "pi-2", "qemu.command").read_text().startswith("qemu-system-aarch64 ")
    assert {"cluster.json", "switch.log"} <= {path.name for path in folder.iterdir()}
    (cluster,) = json.loads((folder / "report.json").read_text())["clusters"]
    assert [node["state"] for node in cluster["nodes"]] == ["up", "up"]
    assert all(f"-p {node['port']} " in node["ssh"] for node in cluster["nodes"])
    assert cluster["faults"][0]["what"] == "partition pi-1 | pi-2"
    result.stdout.fnmatch_lines(["*= pidoc: logs of failed tests =*", str(folder)])


def test_a_dead_node_does_not_spoil_the_next_test(run) -> None:  # type: ignore[no-untyped-def]
    """A test that kills its node fails as NodeDied; the next test with that marker gets a new one."""
    result = run("""
        import pytest

        @pytest.mark.pidoc(nodes=1)
        def test_kills(pi):
            pi.sudo("poweroff -f", warn=True)

        @pytest.mark.pidoc(nodes=1)
        def test_next(pi):
            assert pi.run("uname -s").stdout.strip() == "Linux"
        """)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*NodeDied: pi-1 died while it ran 'poweroff -f'*"])


def test_what_a_test_leaves_is_put_right(run) -> None:  # type: ignore[no-untyped-def]
    """Forwards and faults end with the test; the node is the same in the next one."""
    result = run("""
        import socket
        import pytest

        left = {}

        def test_one(pi):
            left["forward"] = pi.forward(22)
            left["fault"] = pi.clock.jump(86400)
            left["node"] = pi
            socket.create_connection((left["forward"].host, left["forward"].port), timeout=10).close()

        def test_other(pi):
            assert pi is left["node"]
            assert not left["fault"].active
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((left["forward"].host, left["forward"].port), timeout=10)
    """)

    result.assert_outcomes(passed=2)


def test_a_killed_switch_does_not_spoil_the_next_test(run) -> None:  # type: ignore[no-untyped-def]
    """The report of the test names it, and the next test gets another cluster."""
    result = run("""
        import os, signal
        import pytest

        @pytest.mark.pidoc(nodes=2)
        def test_kills(pi_cluster):
            os.kill(int(pi_cluster[0]._lan.handle.partition(":")[0]), signal.SIGKILL)
            pi_cluster[0].run("ping -c 1 -W 1 pi-2")

        @pytest.mark.pidoc(nodes=2)
        def test_next(pi_cluster):
            pi_cluster[0].run("ping -c 1 -W 5 pi-2")
        """)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*LAN of c-*", "The switch has ended: no node reaches another."])


def test_a_death_is_named_that_another_node_suffers_from(run) -> None:  # type: ignore[no-untyped-def]
    """What fails is a command on a node that is well; the report says which one is not, and why."""
    result = run("""
        import pytest
        from pytest_pidoc.host import processes

        @pytest.mark.pidoc(nodes=2)
        def test_fails(pi_cluster):
            processes.kill(pi_cluster[1]._vm.endpoint.handle)
            pi_cluster[0].run("ping -c 1 -W 1 pi-2")
        """)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*nodes of c-* that are not up*", "pi-2: QEMU was killed by signal 9"])


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "with a worker"])
def test_nodes_of_a_failed_test_are_kept(  # type: ignore[no-untyped-def]
    pytester: pytest.Pytester, inner_clusters: Path, workers
) -> None:
    """They outlive the run and nobody gets them; the summary says how to end them. All others are gone.

    A report in JUnit's XML names the folder with the logs, for the test that failed alone.
    """
    pytester.makepyfile("""
        names = []

        def test_fails(pi_cluster):
            names.append(pi_cluster.name)
            pi_cluster[0].run("touch here")
            assert False

        def test_gets_another(pi_cluster):
            assert pi_cluster.name not in names
    """)
    result = pytester.runpytest_subprocess("--pidoc-keep=on-failure", "--junit-xml=junit.xml", *workers, timeout=600)

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*= pidoc: logs of failed tests =*", "*/pidoc/*-test_fails-*"])
    result.stdout.fnmatch_lines(["*= pidoc: nodes that are still running =*", "pidoc ssh c-*/pi-1", "pidoc down c-*"])
    cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    folders = {case.attrib["name"]: [each.attrib["value"] for each in case.iter("property")] for case in cases}
    assert folders["test_gets_another"] == []
    (folder,) = folders["test_fails"]
    assert Path(folder, "pi-1", "serial.log").exists()
    (directory,) = inner_clusters.glob("pidoc-*/c-*")
    with Cluster.attach(directory) as cluster:  # and takes it down
        assert cluster[0].run("ls here").ok
    assert not directory.exists()


def test_kept_node_that_is_off_says_so_until_it_is_switched_on(pytester: pytest.Pytester, inner_clusters: Path) -> None:
    """The summary, ``pidoc ps`` and whoever attaches; one who attaches can switch it on for all."""
    pytester.makepyfile("""
        def test_fails(pi):
            pi.run("touch here; sync")
            pi.power_cut()
            assert False
    """)
    result = pytester.runpytest_subprocess("--pidoc-keep=on-failure", timeout=600)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*= pidoc: nodes that are still running =*", "c-*/pi-1 is off since power_cut() at *"])
    (directory,) = inner_clusters.glob("pidoc-*/c-*")
    with Cluster.attach(directory) as cluster, contextlib.closing(Cluster.attach(directory)) as other:
        off = cluster[0].state
        assert _listed_states() == [off]
        for each in (cluster, other):
            with pytest.raises(NodeDied, match=re.escape(f"pi-1 is {off}.\nTry: call power_on() to start it")):
                each[0].run("true")

        cluster[0].power_on()

        assert _listed_states() == [other[0].state] == ["up"]
        assert cluster[0].run("ls here").ok
        other[0].power_cut()
        assert cluster[0].state.startswith("off since power_cut() at ")
        cluster[0].power_on()  # at the port that the other one holds
        assert other[0].run("ls here").ok
    assert not directory.exists()


def _listed_states() -> list[str]:
    """Return the states that ``pidoc ps`` lists, which is a process of its own."""
    done = subprocess.run([*PIDOC, "ps", "--json"], capture_output=True, check=True)
    return [node["state"] for entry in json.loads(done.stdout) for node in entry["nodes"]]


def test_who_has_the_nodes_is_said_where_there_is_no_room(run) -> None:  # type: ignore[no-untyped-def]
    """What would never fit beside the test's own nodes is an error at once, not a wait."""
    result = run("""
        from pytest_pidoc.lifecycle import capacity

        capacity.memory = lambda: 1000 * 2**20  # as on a small machine

        def test_too_many(boot_pi):
            boot_pi()
            boot_pi()
    """)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*NoRoom: 1 x pi3-virt can use 612 MiB, but 612 of the 900 MiB that this host has * taken by c-*",
            "*    c-*: test_who_has_the_nodes_is_said_where_there_is_no_room.py::test_too_many",
            "*Try: let fixtures and tests end the nodes that they start earlier, *",
        ]
    )
