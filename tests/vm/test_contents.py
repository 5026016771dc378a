"""Files of a guest, written and read over a real SSH server in this process."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from support import SshServer, StandInEngine

from pytest_pidoc.errors import CopyError, NodeDied, SettingsError
from pytest_pidoc.node import Node

ODD = "-rf ä'\"$(touch x)"


def program(server: SshServer, name: str, script: str) -> None:
    path = server.home / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def mode_of(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


@pytest.mark.parametrize("sudo", [False, True])
@pytest.mark.parametrize("text", ["", "port = 80\n", "no end", "ä €\r\n\0'\"$x", "line\n" * 100_000])
def test_text_comes_back(node: Node, server: SshServer, text: str, sudo: bool) -> None:
    """As it was, whatever it is and sudo says."""
    node.write("app.conf", text, sudo=sudo)

    assert (server.home / "app.conf").read_bytes() == text.encode()
    assert node.read("app.conf", sudo=sudo) == text


def test_bytes(node: Node, server: SshServer) -> None:
    """They need not be text to be written, and are not read as such."""
    data = b"\xff" + os.urandom(3_000_000)
    node.write(ODD, data)

    assert (server.home / ODD).read_bytes() == data
    with pytest.raises(CopyError, match=r"is not text in UTF-8: the byte at 0 is 0xff\.\nTry: call get\(.*BytesIO"):
        node.read(ODD)


def test_a_shell_that_speaks(node: Node, server: SshServer) -> None:
    """What sudo says first is not in the file's text."""
    program(server, "sudo", 'echo "I trust you have"; echo "received the usual lecture" >&2; shift; exec "$@"')
    node.write("app.conf", "mine", sudo=True)

    assert node.read("app.conf", sudo=True) == "mine"


def test_mode_of_a_new_file(node: Node, server: SshServer) -> None:
    """Others can read it, unless a mode is given."""
    node.write("new", "")
    node.write("secret", "", mode=0o600)
    node.write("run", "#!/bin/sh\necho it runs\n", mode=0o755)
    node.write(PurePosixPath("none"), "", mode=0)

    assert [mode_of(server.home / name) for name in ("new", "secret", "run", "none")] == [
        "0o644",
        "0o600",
        "0o755",
        "0o0",
    ]
    assert node.run("./run").stdout == "it runs\n"


def test_mode_of_an_old_file(node: Node, server: SshServer) -> None:
    """It stays, unless another one is given."""
    (server.home / "old").write_text("old")
    (server.home / "old").chmod(0o640)
    node.write("old", "new")
    assert mode_of(server.home / "old") == "0o640"
    node.write("old", "new", mode=0o700)
    assert mode_of(server.home / "old") == "0o700"


def test_owner(node: Node, server: SshServer) -> None:
    """It is chown's affair, whose words are in the error if there is no such user."""
    program(server, "chown", 'echo "$@" >>chowned')
    node.write("app.conf", "", sudo=True, owner="www-data:adm")
    assert (server.home / "chowned").read_text().startswith("www-data:adm ")

    (server.home / "bin" / "chown").unlink()
    with pytest.raises(CopyError, match=r"(?s)other on pi-1 could not be written: status 1 in the guest.*nobody-here"):
        node.write("other", "", sudo=True, owner="nobody-here")
    assert not list(server.home.glob("other*"))


def test_whole_or_not_at_all(node: Node, server: SshServer) -> None:
    """A reader that has opened the old file reads all of it; nothing else is left in the folder."""
    (server.home / "conf").mkdir()
    (server.home / "conf" / "app").write_text("old")
    with (server.home / "conf" / "app").open() as reader:
        node.write("conf/app", "new")
        assert reader.read() == "old"

    assert [path.name for path in (server.home / "conf").iterdir()] == ["app"]


def test_a_file_that_arrives_in_part(node: Node, server: SshServer) -> None:
    """It does not take the old one's place."""
    (server.home / "conf").mkdir()
    (server.home / "conf" / "app").write_text("old")
    program(server, "cat", "head -c 2")
    with pytest.raises(CopyError, match="not all of it has arrived"):
        node.write("conf/app", "longer")

    assert [path.read_text() for path in (server.home / "conf").iterdir()] == ["old"]


def test_through_a_link(node: Node, server: SshServer) -> None:
    """What it leads to is written; the link stays."""
    (server.home / "there").mkdir()
    (server.home / "link").symlink_to("there/file")
    for text in ("first", "second"):
        node.write("link", text)

    assert (server.home / "link").is_symlink()
    assert (server.home / "there" / "file").read_text() == "second"


def test_what_cannot_be_replaced(node: Node, server: SshServer) -> None:
    """A device is written to."""
    node.write("/dev/null", "gone")
    (server.home / "full").symlink_to("/dev/full")
    with pytest.raises(CopyError, match="No space left"):
        node.write("full", "too much")

    assert Path("/dev/null").is_char_device()


def test_no_folder(node: Node) -> None:
    """The error says how it is made, as whom the file was to be written."""
    with pytest.raises(FileNotFoundError) as caught:
        node.write("no/such/file", "text")
    assert str(caught.value) == (
        "[Errno 2] There is no folder for this file on pi-1; call run('mkdir -p no/such') first: 'no/such/file'"
    )
    with pytest.raises(FileNotFoundError, match=r"call sudo\('mkdir -p /no/such'\) first: '/no/such/file'"):
        node.write("/no/such/file", "text", sudo=True)


def test_no_file(node: Node) -> None:
    """The error is that of Python's own open(), and names the node."""
    with pytest.raises(FileNotFoundError, match=r"There is no such file on pi-1: 'none'"):
        node.read("none")


@pytest.mark.parametrize("path", ["bin", "bin/", "/", "."])
def test_a_folder(node: Node, path: str) -> None:
    """It is no file to read or write."""
    with pytest.raises(IsADirectoryError, match="This is a folder on pi-1"):
        node.read(path)
    with pytest.raises(IsADirectoryError, match="This is a folder on pi-1"):
        node.write(path, "")


def test_no_right(node: Node, server: SshServer) -> None:
    """The error says what gives it."""
    program(server, "id", "echo 1000")
    program(server, "ls", "echo \"ls: cannot access '$2': Permission denied\"; exit 2")
    for call in (lambda: node.read("/closed/file"), lambda: node.write("/closed/file", "")):
        with pytest.raises(PermissionError, match="pi has no right to it on pi-1; pass sudo=True: '/closed/file'"):
            call()


def test_sudo_that_wants_a_password(node: Node, server: SshServer) -> None:
    """Its words are in the error."""
    program(server, "sudo", "echo sudo: a password is required >&2; exit 1")
    with pytest.raises(CopyError, match=r"(?s)status 1 .*a password is required.*Try: check that pi can use"):
        node.write("file", "text", sudo=True)
    with pytest.raises(CopyError, match="a password is required"):
        node.read("file", sudo=True)


def test_node_that_dies_meanwhile(node: Node, server: SshServer, engine: StandInEngine) -> None:
    """The error says that."""
    program(server, "cat", "touch begun; sleep 60")

    def die() -> None:
        engine.reason = "QEMU was killed by signal 9"
        server.hang_up()

    server.when("begun", die)
    with pytest.raises(NodeDied, match=r"pi-1 died while file was written: QEMU was killed by signal 9"):
        node.write("file", "text")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": ""}, "The path must be a non-empty string, not ''"),
        ({"path": "a\0b"}, "The path must be a non-empty string, not "),
        ({"path": 1}, "The path must be a non-empty string, not 1"),
        ({"content": None}, r"The content of file must be text or bytes, not None.\nTry: call put\(\)"),
        ({"mode": "644"}, "mode must be a whole number from 0 to 0o7777, not '644'"),
        ({"mode": 0o10000}, "mode must be a whole number from 0 to 0o7777, not 4096"),
        ({"mode": True}, "mode must be a whole number from 0 to 0o7777, not True"),
        ({"owner": "root; reboot"}, "owner must be a user, or a user and a group, not 'root; reboot'"),
        ({"owner": ""}, "owner must be a user, or a user and a group, not ''"),
        ({"owner": 0}, "owner must be a user, or a user and a group, not 0"),
    ],
)
def test_invalid_arguments(node: Node, server: SshServer, arguments: dict[str, Any], message: str) -> None:
    """They are refused before the guest is asked."""
    with pytest.raises(SettingsError, match=message):
        node.write(**{"path": "file", "content": "text", **arguments})
    assert server.connections == 0
