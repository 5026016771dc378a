"""What the commands do, on clusters whose nodes are small processes of this test."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

import paramiko
import pytest
from support import PIDOC, SshServer, child, eventually, make_image

from pytest_pidoc import cli
from pytest_pidoc.commands.doctor import Check
from pytest_pidoc.host import processes, records
from pytest_pidoc.images.store import usage
from pytest_pidoc.lifecycle import artifacts
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.testrun.run import reached_by
from pytest_pidoc.values.files import CONSOLE_SOCKET
from pytest_pidoc.vm.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_pidoc.images.store.image import Image

pytestmark = pytest.mark.usefixtures("clusters", "no_settings", "no_docker")


@pytest.fixture
def image(no_settings: Path) -> Image:
    """Put an image into the cache."""
    return make_image(no_settings / "images" / ("a" * 64), host_keys=("ssh-ed25519 AAAA",))


@pytest.fixture
def make_cluster(image: Image) -> Iterator[Callable[..., Path]]:
    """Give what makes a cluster's record, with processes that stand for its nodes' QEMUs."""
    with contextlib.ExitStack() as closing:

        def make(*, nodes: int = 1, owner: str | None = None, port: int = 40001) -> Path:
            directory = records.new_directory()
            entries = []
            for name in (f"pi-{number}" for number in range(1, nodes + 1)):
                (directory / name).mkdir()
                process = closing.enter_context(child(**{processes.CLUSTER_VARIABLE: directory.name}))
                endpoint = {
                    "engine": "local",
                    "host": "127.0.0.1",
                    "port": port,
                    "directory": str(directory / name),
                    "handle": processes.identify(process.pid),
                }
                timings = {"launched": 0.1, "banner": 0.2, "ready": 0.3, "start": "cold"}
                entries.append({"name": name, "endpoint": endpoint, "host_keys": [], "timings": timings})
            spec = dataclasses.asdict(Settings().spec({"nodes": nodes, "engine": "local"}))
            record = {
                "name": directory.name,
                "owner": owner,
                "created": time.time(),
                "engine": "local",
                "spec": spec,
                "provision": {"engine": "local", "image": str(image.path), "reference": ""},
                "switch": None,
                "template": None,
                "nodes": entries,
            }
            records.write(directory, record)
            return directory

        yield make


@pytest.fixture
def owner() -> Iterator[str]:
    with child() as process:
        yield str(processes.identify(process.pid))


@pytest.fixture
def pidoc(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give what runs a command line that has to succeed, and returns what it prints."""

    def run(*arguments: str) -> str:
        assert cli.main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.mark.usefixtures("no_docker")
def test_doctor_fails_where_no_engine_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The status tells a script that no node can run here, and the text what to do."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing  engine local" in out
    assert "try: install QEMU (apt-get install qemu-system-arm qemu-utils)" in out


@pytest.mark.qemu
def test_doctor_succeeds_where_one_engine_is(pidoc: Any) -> None:
    """One engine is enough."""
    assert "ok       engine local" in pidoc("doctor")


def test_images_of_an_empty_cache(pidoc: Any) -> None:
    """A cache that is not there yet has no images."""
    assert pidoc("images").split() == ["recipe", "architecture", "key", "created", "used", "size"]


def test_images_lists_what_is_there(pidoc: Any, image: Image) -> None:
    """An image is shown with its recipe, architecture and key."""
    assert pidoc("images").splitlines()[1].split()[:3] == ["debian:bookworm", "arm64", image.manifest.key[:12]]


def test_images_as_json(pidoc: Any, image: Image) -> None:
    """For a script, sizes are bytes and the path is there."""
    (entry,) = json.loads(pidoc("images", "--json"))

    assert entry["bytes"] == sum(file.size for file in image.manifest.files.values())
    assert entry["path"] == str(image.path)


def test_prune_removes_what_nobody_uses(pidoc: Any, image: Image) -> None:
    """An image without a cluster goes."""
    assert "removed  debian:bookworm" in pidoc("prune")
    assert not image.path.exists()


def test_prune_keeps_what_a_cluster_uses(pidoc: Any, image: Image, make_cluster: Any) -> None:
    """An image from which nodes run stays."""
    make_cluster()

    assert "a cluster uses it" in pidoc("prune")
    assert image.path.exists()


def test_prune_keeps_what_is_young(pidoc: Any, image: Image) -> None:
    """With ``--days``, only images go that were not used for longer; a start is a use, a build another time."""
    assert re.search(r"kept     debian:bookworm .*: used \d+ days ago", pidoc("prune", "--days", "1000000"))
    assert image.path.exists()

    descriptor = usage.hold(image.path.parent.parent, image.path)
    assert descriptor is not None
    os.close(descriptor)
    assert "used 0 s ago" in pidoc("prune", "--days", "1")
    assert image.path.exists()


def test_prune_keeps_what_somebody_elses_nodes_use(pidoc: Any, image: Image) -> None:
    """Clusters of another user, or with another TMPDIR, are not listed here, but hold what they use."""
    descriptor = usage.hold(image.path.parent.parent, image.path)
    assert descriptor is not None
    try:
        assert "a cluster uses it" in pidoc("prune")
        assert image.path.exists()
    finally:
        os.close(descriptor)
    assert "removed  debian:bookworm" in pidoc("prune")


def test_prune_until_it_fits(pidoc: Any, image: Image) -> None:
    """With ``--size``, nothing goes as long as all fits."""
    assert "kept     debian:bookworm" in pidoc("prune", "--size", "5G")
    assert image.path.exists()
    assert "removed  debian:bookworm" in pidoc("prune", "--size", "1K")
    assert not image.path.exists()


def test_prune_says_what_it_would_do(pidoc: Any, image: Image, make_cluster: Any) -> None:
    """``--dry-run`` removes nothing: no image, no download, no cluster whose owner is gone."""
    with child() as process:
        gone = str(processes.identify(process.pid))
    orphan = make_cluster(owner=gone)
    downloaded = image.path.parent.parent / "downloads" / ("c" * 64)
    downloaded.parent.mkdir()
    downloaded.write_bytes(b"x")
    out = pidoc("prune", "--dry-run")

    assert "would keep debian:bookworm" in out
    assert f"would remove the download {'c' * 12}" in out
    assert "would free" in out
    assert orphan.exists()
    assert downloaded.exists()


def test_prune_removes_what_interrupted_builds_and_failed_starts_left(pidoc: Any, image: Image) -> None:
    """Half an image is nobody's, however young; logs of failed starts go by their age."""
    half = image.path.parent / f".new-{'b' * 64}"
    half.mkdir()
    (half / "disk").write_bytes(b"x")
    kept = artifacts.keep([], records.failed_directory() / "c-1", artifacts.Report("start"))
    out = pidoc("prune", "--days", "1000000")

    assert f"removed  {half}: an interrupted build" in out
    assert not half.exists()
    assert kept.exists()
    assert "removed  the evidence c-1" in pidoc("prune")
    assert not kept.exists()


@pytest.mark.parametrize("arguments", [("--days", "-1"), ("--days", "nan"), ("--size", "much"), ("--size", "-5G")])
def test_prune_with_a_bad_bound_removes_nothing(
    image: Image, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]
) -> None:
    """It is wrong usage, and says what would be right."""
    assert cli.main(["prune", "=".join(arguments)]) == 2
    assert arguments[0] in capsys.readouterr().err
    assert image.path.exists()


def test_doctor_verifies_what_is_in_the_cache(
    pidoc: Any, image: Image, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is hashed; what is damaged is named with the command that repairs it, and the status is 1."""
    monkeypatch.setattr("pytest_pidoc.commands.doctor.examine", lambda settings: [Check("engine local", True, "QEMU")])
    content = b"whole"
    downloaded = image.path.parent.parent / "downloads" / hashlib.sha256(content).hexdigest()
    downloaded.parent.mkdir()
    downloaded.write_bytes(content)
    out = pidoc("doctor", "--verify")
    assert f"ok       image            {image}" in out
    assert f"ok       download         {downloaded}" in out

    disk = image.file("disk")
    disk.chmod(0o600)
    disk.write_bytes(bytes(disk.stat().st_size))
    downloaded.write_bytes(b"other")
    unreadable = image.path.with_name("b" * 64)
    unreadable.mkdir()
    assert cli.main(["doctor", "--verify"]) == 1
    out = capsys.readouterr().out
    assert f"damaged  image            {disk} does not match its manifest" in out
    assert "try: pidoc build --rebuild --image debian:bookworm --model pi3-virt" in out
    assert f"try: rm {downloaded}" in out
    assert f"try: rm -r {unreadable}" in out
    assert cli.main(["doctor"]) == 0


def test_ps_without_clusters(pidoc: Any) -> None:
    """Where nothing runs, only the head of the table is printed."""
    assert len(pidoc("ps").splitlines()) == 1


def test_ps_shows_every_node(pidoc: Any, make_cluster: Any) -> None:
    """Each node has a line with its address and state."""
    directory = make_cluster(nodes=2)
    lines = pidoc("ps").splitlines()[1:]

    assert [line.split()[0] for line in lines] == [f"{directory.name}/pi-1", f"{directory.name}/pi-2"]
    assert all("127.0.0.1:40001" in line and line.endswith("up") for line in lines)


def test_ps_shows_who_ends_a_cluster(pidoc: Any, make_cluster: Any, owner: str) -> None:
    """A cluster is ended by ``pidoc down``, or by the process that owns it."""
    make_cluster()
    make_cluster(owner=owner)
    out = pidoc("ps")

    assert "pidoc down" in out
    assert f"process {owner.partition(':')[0]} (" in out


def test_ps_shows_a_dead_node(pidoc: Any, make_cluster: Any) -> None:
    """A node whose QEMU is gone is not up."""
    directory = make_cluster()
    for identity in processes.of_cluster(directory.name):
        processes.kill(identity)
        processes.wait(identity, timeout=10)

    assert pidoc("ps").splitlines()[1].endswith("its QEMU process is gone")


@pytest.mark.parametrize("command", ["ssh", "console"])
def test_node_that_is_off_is_listed_as_such(
    pidoc: Any, make_cluster: Any, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Who wants to use it is told why, and how it is started."""
    directory = make_cluster()
    Outage(directory / "pi-1").begin("power_cut()")

    assert re.search(r"  off since power_cut\(\) at \d\d:\d\d:\d\d$", pidoc("ps").splitlines()[1])
    assert cli.main([command]) == 1
    said = capsys.readouterr().err
    assert re.search(r"pi-1 is off since power_cut\(\) at \d\d:\d\d:\d\d\.\n", said)
    assert f'Cluster.attach("{directory.name}")["pi-1"].power_on()' in said
    assert reached_by(directory, ["pi-1"])[0].startswith(f"{directory.name}/pi-1 is off since power_cut() at")


def test_ps_as_json(pidoc: Any, make_cluster: Any) -> None:
    """For a script, the list has clusters with their nodes."""
    directory = make_cluster(nodes=2)
    (cluster,) = json.loads(pidoc("ps", "--json"))

    assert cluster["cluster"] == directory.name
    assert cluster["owner"] is None
    assert [(node["host"], node["port"]) for node in cluster["nodes"]] == [("127.0.0.1", 40001)] * 2
    assert all(node["ssh"].startswith("ssh ") and node["timings"]["ready"] > 0 for node in cluster["nodes"])


def test_ps_shows_a_cluster_that_is_starting(pidoc: Any, make_cluster: Any) -> None:
    """A cluster without nodes yet is listed."""
    directory = make_cluster(nodes=1)
    record = records.read(directory)
    records.write(directory, {**record, "nodes": []})

    assert pidoc("ps").splitlines()[1].endswith("starting")


def test_down_ends_what_up_started(pidoc: Any, make_cluster: Any, owner: str) -> None:
    """Without names, clusters that nobody owns end, and those of running tests stay."""
    ours, theirs = make_cluster(), make_cluster(owner=owner)
    assert eventually(lambda: list(processes.of_cluster(ours.name)))

    assert pidoc("down") == f"{ours.name} is down\n"
    assert not ours.exists()
    assert list(processes.of_cluster(ours.name)) == []
    assert list(processes.of_cluster(theirs.name)) != []


def test_down_of_one_cluster(pidoc: Any, make_cluster: Any) -> None:
    """With a name, that cluster ends and no other."""
    first, second = make_cluster(), make_cluster()

    assert pidoc("down", first.name) == f"{first.name} is down\n"
    assert second.exists()


def test_down_of_all(pidoc: Any, make_cluster: Any, owner: str) -> None:
    """With ``--all``, clusters of running tests end as well."""
    directory = make_cluster(owner=owner)

    assert pidoc("down", "--all") == f"{directory.name} is down\n"
    assert not directory.exists()


def test_down_sweeps_orphans(pidoc: Any, make_cluster: Any) -> None:
    """What a killed owner left is ended as well, and said."""
    with child() as process:
        gone = str(processes.identify(process.pid))
    directory = make_cluster(owner=gone)

    assert pidoc("down") == f"{directory.name} is down: its owner had ended\n"


def test_down_ends_the_others_of_one_that_cannot_be_ended(
    make_cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a daemon its containers stay, and so does the cluster; that is told."""
    first, second = make_cluster(), make_cluster()
    records.write(first, {**records.read(first), "engine": "docker"})

    assert cli.main(["down", first.name, second.name]) == 1
    said = capsys.readouterr()
    assert said.out == f"{second.name} is down\n"
    assert said.err.startswith(f"pidoc: {first.name}: ")
    assert "No Docker daemon listens" in said.err
    assert first.exists()
    assert not second.exists()


def test_down_where_nothing_runs(pidoc: Any) -> None:
    """It is no error when there is nothing to end."""
    assert pidoc("down") == ""


def test_down_of_an_unknown_cluster_ends_none(make_cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped name among others ends nothing."""
    directory = make_cluster()

    assert cli.main(["down", directory.name, "c-nobody"]) == 2
    assert directory.exists()


def test_node_of_several_clusters_needs_its_clusters_name(
    make_cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a name is not enough, the error has the names that are."""
    directories = make_cluster(), make_cluster()

    assert cli.main(["console", "pi-1"]) == 2
    err = capsys.readouterr().err
    assert all(f"{directory.name}/pi-1" in err for directory in directories)


def test_console_that_cannot_be_reached(make_cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A node without its console's socket is a failure, not a traceback."""
    directory = make_cluster()

    assert not (directory / "pi-1" / CONSOLE_SOCKET).exists()
    assert cli.main(["console", "pi-1"]) == 1
    assert "Cannot connect to the console of pi-1" in capsys.readouterr().err


def test_ssh_runs_a_command(make_cluster: Any, image: Image, tmp_path: Path) -> None:
    """``pidoc ssh`` becomes an ssh with the node's key and pinned host key, and its status is the command's."""
    key = paramiko.ECDSAKey.from_private_key_file(str(image.file("private_key")))
    with contextlib.closing(SshServer(tmp_path / "home", client_key=key)) as server:
        manifest = dataclasses.replace(image.manifest, host_keys=(server.public_key,))
        (image.path / "manifest.json").write_text(manifest.to_json())
        make_cluster(port=server.port)
        done = subprocess.run(
            [*PIDOC, "ssh", "pi-1", "--", "echo hello; exit 3"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=dict(os.environ),
            timeout=60,
        )

    assert (done.stdout, done.returncode) == ("hello\n", 3), done.stderr


def test_ssh_that_is_not_installed(
    make_cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without OpenSSH the error names its package."""
    make_cluster()
    monkeypatch.setenv("PATH", "/nowhere")

    assert cli.main(["ssh", "pi-1"]) == 1
    assert "openssh-client" in capsys.readouterr().err


def test_ps_with_an_image_that_is_gone(make_cluster: Any, image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster whose image somebody removed is listed all the same, and the image is named."""
    name = make_cluster().name
    (image.path / "manifest.json").unlink()

    assert cli.main(["ps"]) == 0
    shown = capsys.readouterr()
    assert f"{name}/pi-1" in shown.out
    assert str(image.path) in shown.err
