"""Copies of files and folders, over a real SSH server in this process."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import SshServer, StandInEngine, Steps, served_node, vm_of

from pytest_pidoc.errors import CopyError, NodeDied
from pytest_pidoc.machines import MODELS
from pytest_pidoc.node import Node
from pytest_pidoc.values import progress
from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["pi3-virt", "pi0"])
def node(request: pytest.FixtureRequest, short_path: Path, server: SshServer, engine: StandInEngine) -> Iterator[Node]:
    """Give a node whose network is faster than compressing, and one whose network is slower."""
    with served_node(server, short_path, engine=engine, machine=MODELS[request.param]) as node:
        yield node


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with what there is: programs, links, empty and closed folders, names of all kinds."""
    folder = tmp_path / "my app"
    (folder / "bin" / "empty").mkdir(parents=True)
    (folder / "bin" / "run").write_text("#!/bin/sh\necho it runs\n")
    (folder / "bin" / "run").chmod(0o750)
    (folder / "bin" / "same").hardlink_to(folder / "bin" / "run")
    (folder / "data").write_bytes(os.urandom(300_000))
    (folder / "zeros").write_bytes(bytes(3_000_000))
    (folder / "-rf ä'\"$(x)").write_text("odd")
    (folder / ("long" * 50)).write_text("long")
    (folder / "link").symlink_to("bin/run")
    (folder / "away").symlink_to("/etc/hostname")
    (folder / "closed").mkdir()
    (folder / "closed" / "file").write_text("closed")
    (folder / "closed").chmod(0o555)
    return folder


def listing(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a folder: of each entry its mode, and its contents or where it leads."""
    found: dict[str, tuple[object, ...]] = {".": (oct(folder.stat().st_mode),)}
    for path in folder.rglob("*"):
        mode = oct(path.lstat().st_mode)
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (mode, content)
    return found


def test_put_makes_the_folder(node: Node, server: SshServer, folder: Path) -> None:
    """With all that is in it, under the name that is asked for; the result is Fabric's."""
    done = node.put(folder, "there")

    assert listing(server.home / "there") == listing(folder)
    assert (done.remote, done.local, done.orig_remote) == (str(server.home / "there"), str(folder), "there")


@pytest.mark.parametrize("remote", [None, ".", "into/", "into"])
def test_put_into_a_folder(node: Node, server: SshServer, folder: Path, remote: str | None) -> None:
    """Under its own name, as cp -r does; a second time it is overwritten."""
    (server.home / "into").mkdir()
    for _ in range(2):
        node.put(str(folder), remote)

    assert listing(server.home / (remote or ".") / folder.name) == listing(folder)


def test_put_of_the_current_folder(
    node: Node, server: SshServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dot has the folder's name, and a link its own."""
    monkeypatch.chdir(folder)
    node.put(".")
    (folder.parent / "alias").symlink_to(folder)
    node.put("../alias/")

    assert listing(server.home / folder.name) == listing(server.home / "alias") == listing(folder)


def test_put_leaves_out_what_is_no_file(node: Node, server: SshServer, folder: Path, short_path: Path) -> None:
    """Sockets, pipes and devices stay where they are."""
    before = listing(folder)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "socket"))
        (short_path / "socket").rename(folder / "socket")
        node.put(folder, "there")

    assert listing(server.home / "there") == before


def test_put_where_there_is_no_folder(node: Node, server: SshServer, folder: Path) -> None:
    """The guest's own words are in the error."""
    (server.home / "file").write_text("")
    with pytest.raises(CopyError, match=r"my app could not be copied to no/such on pi-1: status 1") as caught:
        node.put(folder, "no/such")
    assert "No such file or directory" in caught.value.evidence
    with pytest.raises(CopyError, match="File exists"):
        node.put(folder, "file")


def test_put_that_tar_refuses(node: Node, server: SshServer, folder: Path) -> None:
    """What it says is in the error, and nobody waits for it."""
    (server.home / "bin" / "tar").write_text("#!/bin/sh\necho disk full >&2\nexit 2\n")
    (server.home / "bin" / "tar").chmod(0o755)
    with pytest.raises(CopyError, match=r"status 2 in the guest\.\n    disk full"):
        node.put(folder, "there")
    with pytest.raises(CopyError, match=r"status 2 in the guest\.\n    disk full"):
        node.get("bin", folder.parent / "here")


def test_put_of_what_is_not_there(node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where it was looked for."""
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError) as caught:
        node.put("build/app")

    assert str(caught.value) == (
        f"[Errno 2] There is no such file or folder on the host; the current directory is {folder}: 'build/app'"
    )


def test_options_of_files(node: Node, folder: Path) -> None:
    """A folder's modes are always kept."""
    with pytest.raises(TypeError, match=r"put\(\) of a folder takes no preserve_mode"):
        node.put(folder, "there", preserve_mode=False)


def test_get_makes_the_folder(node: Node, server: SshServer, folder: Path, tmp_path: Path) -> None:
    """With all that is in it, and the folders above; it belongs to who runs the test."""
    folder.rename(server.home / "app")
    done = node.get("app", tmp_path / "a" / "b")

    assert listing(tmp_path / "a" / "b") == listing(server.home / "app")
    assert {path.lstat().st_uid for path in (tmp_path / "a" / "b").rglob("*")} == {os.geteuid()}
    assert done.local == str(tmp_path / "a" / "b")


def test_get_into_a_folder(
    node: Node, server: SshServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name, by default into the current one."""
    folder.rename(server.home / "app")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    node.get("app")
    node.get("app", tmp_path)

    assert listing(tmp_path / "here" / "app") == listing(tmp_path / "app") == listing(server.home / "app")


def test_get_of_a_folder_as_a_file(node: Node) -> None:
    """A file object holds no folder."""
    with pytest.raises(IsADirectoryError, match="needs a folder on the host"):
        node.get("bin", io.BytesIO())


def test_get_of_what_is_not_there(node: Node, tmp_path: Path) -> None:
    """No file is left on the host, and one that is there stays."""
    with pytest.raises(FileNotFoundError, match=r"No such file on pi-1: '.*/missing'"):
        node.get("missing", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()

    (tmp_path / "old").write_text("old")
    with pytest.raises(FileNotFoundError):
        node.get("missing", str(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "old"


def test_get_that_fails_in_the_middle(
    node: Node, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that has arrived does not stay."""
    (server.home / "file").write_bytes(bytes(3_000_000))

    class Broken(Progress):
        def step(self, text: str) -> None:
            raise RuntimeError(text)

    monkeypatch.setattr(progress, "FIRST_REPORT", 0.0)
    vm_of(node).progress = Broken()
    with pytest.raises(RuntimeError, match="copying file from pi-1"):
        node.get("file", str(tmp_path / "part"))
    assert list(tmp_path.glob("part*")) == []


@pytest.mark.parametrize(
    "entries",
    [
        [("../outside", tarfile.REGTYPE, "")],
        [("{tmp}/outside", tarfile.REGTYPE, "")],
        [("link", tarfile.SYMTYPE, ".."), ("link/outside", tarfile.REGTYPE, "")],
        [("link", tarfile.SYMTYPE, "../outside"), ("link", tarfile.REGTYPE, "")],
        [("link", tarfile.LNKTYPE, "../inside")],
    ],
    ids=["up", "absolute", "through a link", "over a link", "hard link"],
)
def test_guest_cannot_write_outside_of_the_folder(
    node: Node, server: SshServer, tmp_path: Path, entries: list[tuple[str, bytes, str]]
) -> None:
    """An archive that tries is refused."""
    (tmp_path / "inside").write_text("mine")
    with tarfile.open(server.home / "evil.tar", "w") as archive:
        for name, kind, target in entries:
            info = tarfile.TarInfo(name.format(tmp=tmp_path))
            info.type, info.linkname = kind, target
            archive.addfile(info)
    (server.home / "bin" / "tar").write_text(
        f"#!/bin/sh\ncase $1 in *z*) gzip -c {server.home}/evil.tar;; *) cat {server.home}/evil.tar;; esac\n"
    )
    (server.home / "bin" / "tar").chmod(0o755)
    (server.home / "app").mkdir()

    with pytest.raises(CopyError, match="which is not in the folder"):
        node.get("app", tmp_path / "here")
    assert not (tmp_path / "outside").exists()


def test_progress_of_long_copies(
    node: Node, server: SshServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of folders and files, in both directions: what is copied, how far, how fast."""
    monkeypatch.setattr(progress, "FIRST_REPORT", 0.0)
    monkeypatch.setattr(progress, "REPORT_EVERY", 0.0)
    steps = vm_of(node).progress = Steps()
    monkeypatch.chdir(folder.parent)

    for copy, named in (
        (lambda: node.put("my app", "app"), "my app to pi-1"),
        (lambda: node.get("app", tmp_path / "here"), "app from pi-1"),
        (lambda: node.put("my app/zeros", "file"), "my app/zeros to pi-1"),
        (lambda: node.put(io.BytesIO(bytes(1000)), "file"), "a file object to pi-1"),
        (lambda: node.get("file", io.BytesIO()), "file from pi-1"),
    ):
        steps.texts.clear()
        copy()
        assert steps.texts
        assert all(text.startswith(f"copying {named}: ") for text in steps.texts)
        assert " MB/s" in steps.texts[-1]


def test_node_that_dies_meanwhile(node: Node, server: SshServer, engine: StandInEngine, folder: Path) -> None:
    """The error says that, and what was copied."""
    (server.home / "bin" / "tar").write_text("#!/bin/sh\ntouch begun\nsleep 60\n")
    (server.home / "bin" / "tar").chmod(0o755)

    def die() -> None:
        engine.reason = "QEMU was killed by signal 9"
        server.hang_up()

    server.when("there/begun", die)
    with pytest.raises(NodeDied, match=r"pi-1 died while it received .*my app: QEMU was killed by signal 9"):
        node.put(folder, "there")


def test_modes_of_the_folder_itself(node: Node, server: SshServer, tmp_path: Path) -> None:
    """It is as closed as it was."""
    (tmp_path / "private").mkdir(mode=0o700)
    node.put(tmp_path / "private")

    assert stat.S_IMODE((server.home / "private").stat().st_mode) == 0o700


def test_copies_of_several_threads(node: Node, server: SshServer, tmp_path: Path) -> None:
    """Files and folders, to and from one node, whose connection is not open yet."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(8):
        (folder / str(number)).write_text(str(number))

    def copy(number: int) -> str:
        node.put(folder / str(number), str(number))
        node.put(folder, f"folder-{number}")
        node.get(str(number), str(tmp_path / f"back-{number}"))
        return (tmp_path / f"back-{number}").read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy, range(8))) == [str(number) for number in range(8)]
    assert listing(server.home / "folder-7") == listing(folder)
    assert server.connections == 1
