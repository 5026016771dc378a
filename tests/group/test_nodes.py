"""What is done on all nodes at once, against real SSH servers in this process: each node has one with its own home."""

from __future__ import annotations

import io
import json
import pickle
import signal
import threading
from pathlib import Path

import pytest
from fabric.exceptions import GroupException
from invoke.exceptions import UnexpectedExit
from support import eventually, vm_of

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import NodeDied, NodeRestarted, SettingsError
from pytest_pidoc.group.results import NodesFailed

NAMES = ("pi-1", "pi-2", "pi-3")


def test_result_is_found_by_node_name_and_connection(cluster: Cluster) -> None:
    """Whatever a test has at hand; and they stand in the order of the nodes."""
    results = cluster.run("cat name")

    for pi in cluster:
        assert results[pi] is results[pi.name] is results[pi.connection] is results.get(pi)
        assert results[pi].stdout == pi.name
        assert pi in results
        assert pi.name in results
    assert [result.stdout for result in results.values()] == list(NAMES)
    assert list(results.by_name) == list(NAMES)
    assert "pi-4" not in results
    assert results.get("pi-4") is None
    with pytest.raises(KeyError, match="'pi-4' has no result here; these have: pi-1, pi-2, pi-3"):
        results["pi-4"]


def test_node_is_found_by_name(cluster: Cluster) -> None:
    """As by its place; a name that is none says which are."""
    assert cluster["pi-2"] is cluster[1]
    with pytest.raises(KeyError, match=r"'pi-4' is no node of .*, which has pi-1, pi-2, pi-3"):
        cluster["pi-4"]


def test_failure_names_nodes_statuses_and_last_lines(cluster: Cluster) -> None:
    """The message alone tells which nodes failed and why; who is alike is told once."""
    command = "echo out of $(cat name); echo no $(cat name) >&2; test $(cat name) = pi-2 || exit 3"

    with pytest.raises(GroupException) as caught:
        cluster.run(command)

    assert isinstance(caught.value, NodesFailed)
    assert str(caught.value).splitlines() == [
        f"{command!r} failed on 2 of 3 nodes: pi-1, pi-3.",
        "pi-1: exit status 3",
        "    out of pi-1",
        "    no pi-1",
        "pi-3: exit status 3",
        "    out of pi-3",
        "    no pi-3",
    ]
    results = caught.value.result
    assert isinstance(results["pi-1"], UnexpectedExit)
    assert results["pi-2"].stdout == "out of pi-2\n"
    assert list(results.failed.by_name) == ["pi-1", "pi-3"]
    assert list(results.succeeded.by_name) == ["pi-2"]


def test_nodes_that_fail_alike_are_told_together(cluster: Cluster) -> None:
    """The same lines are shown once; of many the last, without terminal control."""
    with pytest.raises(NodesFailed) as caught:
        cluster.run("seq 1000; printf '\\033[2Jcleared'; exit 1")

    first, second, *lines = str(caught.value).splitlines()
    assert first.endswith("failed on 3 of 3 nodes: pi-1, pi-2, pi-3.")
    assert second == "pi-1, pi-2, pi-3: exit status 1"
    assert lines == [*(f"    {number}" for number in range(992, 1001)), "    cleared"]


def test_command_that_says_nothing_or_takes_too_long(cluster: Cluster) -> None:
    """Each way to fail has its words."""
    with pytest.raises(NodesFailed, match=r"pi-1, pi-2, pi-3: exit status 7\n    \(no output\)$"):
        cluster.run("exit 7")
    with pytest.raises(NodesFailed, match=r"pi-1, pi-2, pi-3: not finished after 1 s\n    (\(no output\)|begun)$"):
        cluster.run("echo begun; exec sleep 5", timeout=1)


def test_promises_of_all_nodes(cluster: Cluster) -> None:
    """The commands run while the test does something else, and each node has its result."""
    promises = cluster.run("while ! test -e enough; do sleep 0.01; done; cat name", asynchronous=True)
    cluster.run("touch enough")

    assert [promise.join().stdout for promise in promises.values()] == ["pi-1", "pi-2", "pi-3"]
    assert promises["pi-2"].command.startswith("while")


def test_pickled_nodes_are_attached(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process gets the running nodes, all of one cluster, which is attached once."""
    attached: list[Path] = []
    parcels = pickle.dumps([cluster[2], cluster["pi-1"]]), pickle.dumps(cluster)
    monkeypatch.setattr(Cluster, "attach", lambda directory: attached.append(directory) or cluster)
    names = [node.name for node in pickle.loads(parcels[0])]

    assert names == ["pi-3", "pi-1"]
    assert attached == [cluster.directory]
    assert pickle.loads(parcels[1]) is cluster


def test_failed_command_may_be_a_result(cluster: Cluster) -> None:
    """With ``warn=True``, as for one node."""
    assert [result.exited for result in cluster.run("exit 4", warn=True).values()] == [4, 4, 4]


def test_node_that_is_off_is_its_own_error(cluster: Cluster) -> None:
    """It is no failure of the command."""
    vm_of(cluster[1]).outage.begin("shutdown()", clean=True)

    with pytest.raises(NodeDied, match="pi-2 is off since"):
        cluster.run("true")


def test_restart_of_a_guest_is_named(cluster: Cluster) -> None:
    """As for one node: what the others said does not help then."""
    event = {
        "timestamp": {"seconds": 1700000000, "microseconds": 0},
        "event": "RESET",
        "data": {"reason": "guest-reset"},
    }
    (cluster[1].directory / "events.out").touch()
    write = f"[ $(cat name) != pi-2 ] || echo '{json.dumps(event)}' >> {cluster[1].directory}/events.out; sleep 2"

    with pytest.raises(NodeRestarted, match=r"pi-2 restarted at .* by the guest itself"):
        cluster.run(write)


def test_sudo_is_root_on_all(cluster: Cluster) -> None:
    """Or whom it is asked to be."""
    assert {result.stdout for result in cluster.sudo("true").values()} == {"as root:\n"}
    assert {result.stdout for result in cluster.sudo("true", user="www").values()} == {"as www:\n"}
    with pytest.raises(NodesFailed, match=r"^sudo 'false' failed on 3 of 3 nodes"):
        cluster.sudo("false")


def test_file_is_put_on_all(cluster: Cluster, tmp_path: Path, homes: list[Path]) -> None:
    """From a path, or from a file-like object, whose position is nobody else's business."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)

    results = cluster.put(tmp_path / "file", "copy")
    for stream in (io.StringIO("text\n"), io.BytesIO(b"text\n")):
        stream.seek(2)
        cluster.put(stream, type(stream).__name__)
        assert stream.tell() == 2

    assert results["pi-3"].remote == "/copy"
    for home in homes:
        assert (home / "copy").read_bytes() == (tmp_path / "file").read_bytes()
        assert (home / "StringIO").read_bytes() == (home / "BytesIO").read_bytes() == b"text\n"


def test_file_that_is_not_on_the_host(cluster: Cluster) -> None:
    """It is the usual error, and not one of three nodes."""
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        cluster.put("/nowhere", "copy")


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("{name}.txt", "{}.txt"),
        ("logs/{name}/it", "logs/{}/it"),
        ("made/", "made/{}/name"),
        ("there", "there/{}/name"),
        (None, "{}/name"),
    ],
)
def test_each_node_writes_to_a_path_of_its_own(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: str | None, expected: str
) -> None:
    """By its name in the path, or in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()

    results = cluster.get("name") if local is None else cluster.get("name", local)

    for pi in cluster:
        path = tmp_path / expected.format(pi.name)
        assert path.read_text() == pi.name
        assert results[pi].local == str(path)


def test_nodes_do_not_overwrite_each_others_files(cluster: Cluster, tmp_path: Path) -> None:
    """A path for all is refused before anything is written, as is a stream; so is nothing of a single node."""
    with pytest.raises(SettingsError, match="3 nodes would write to the same file") as caught:
        cluster.get("name", tmp_path / "name")
    with pytest.raises(SettingsError, match="local: 3 nodes cannot write to <_io"):
        cluster.get("name", io.BytesIO())  # type: ignore[arg-type]

    assert caught.value.tip == "use a folder, or a path with {name} in it, such as 'logs/{name}.log'"
    assert not (tmp_path / "name").exists()


def test_file_that_some_nodes_do_not_have(cluster: Cluster, tmp_path: Path) -> None:
    """They are named; the others' copies are there."""
    cluster[1].run("rm name")

    with pytest.raises(NodesFailed, match=r"^get of 'name' failed on 1 of 3 nodes: pi-2\.\npi-2: FileNotFoundError"):
        cluster.get("name", tmp_path)

    assert (tmp_path / "pi-3" / "name").read_text() == "pi-3"


def test_interrupted_wait_ends(cluster: Cluster, homes: list[Path]) -> None:
    """Ctrl-C, or a test's time limit, ends the commands on the nodes, which can be used afterwards."""
    main = threading.get_ident()

    def interrupt() -> None:
        assert eventually(lambda: all((home / "begun").exists() for home in homes))
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.run("echo $$ >new; mv new begun; sleep 600; true")

    groups = [int((home / "begun").read_text()) for home in homes]
    assert eventually(lambda: not any(Path(f"/proc/{group}").exists() for group in groups))
    assert cluster.run("cat name")["pi-2"].stdout == "pi-2"
