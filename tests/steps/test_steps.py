"""Steps as users name them, and the files that they are said to use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.steps.files import files_digest, find_files
from pytest_pidoc.steps.steps import Recorded, Script, digests, read


@pytest.mark.parametrize("value", [None, "", (), []])
def test_no_step(value: object, tmp_path: Path) -> None:
    """Nothing is nothing to do."""
    assert read(value, places=[tmp_path]) == ()


def test_scripts_and_playbooks(tmp_path: Path) -> None:
    """The name tells which it is; a relative path is looked for in one folder after the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "site.yml").mkdir(parents=True)  # a folder is no playbook
    second.mkdir()
    for folder, name in ((first, "a.sh"), (second, "a.sh"), (second, "b.YAML"), (second, "site.yml")):
        (folder / name).write_text(str(folder))
    found = read(["a.sh", Path("b.YAML"), "site.yml", second / "a.sh"], places=[first, second])

    assert [(step.kind, step.path) for step in found] == [
        ("script", first / "a.sh"),
        ("playbook", second / "b.YAML"),
        ("playbook", second / "site.yml"),
        ("script", second / "a.sh"),
    ]


def test_what_is_no_step(tmp_path: Path) -> None:
    """Each message names who asked for it, the value and what is wrong with it."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for value, message in (
        ("missing.sh", rf"'missing\.sh' does not exist in {tmp_path} or /other\."),
        ("/missing.sh", r"'/missing\.sh' does not exist\."),
        ("folder", "'folder' is a directory"),
        ("pipe", "'pipe' is no file"),
        ("circle", "'circle' cannot be read: Too many levels of symbolic links"),
        ("a\0b", r"'a\\x00b' cannot be read: embedded null byte"),
        ("~nobody-of-that-name/x", "'~nobody-of-that-name/x' cannot be read"),
        ([" "], "' ' is not the path of a script or a playbook"),
        ([""], "'' is not the path of a script or a playbook"),
        ([["a.sh"]], r"\['a.sh'\] is neither a function, nor the path of a script or a playbook, nor a list of these"),
        ([None], "None is neither a function"),
        (b"a.sh", "b'a.sh' is neither a function"),
        ({"a.sh"}, "{'a.sh'} is neither a function"),
    ):
        with pytest.raises(SettingsError, match=f"^prepare of x: {message}") as caught:
            read(value, places=[tmp_path, Path("/other")], source="prepare of x")
        assert caught.value.tip


def test_script_that_may_not_be_read(tmp_path: Path) -> None:
    """It is found before anything is started; root is another user meanwhile."""
    script = tmp_path / "setup.sh"
    script.write_text("true")
    script.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o111)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(SettingsError, match=r"^prepare: 'setup\.sh' cannot be read: Permission denied"):
            read("setup.sh", places=[tmp_path])
    finally:
        os.seteuid(user)


def test_script_is_known_by_its_text(tmp_path: Path) -> None:
    """And by its name, but not by its place, and not by whether it can be executed, since it is run in any case."""
    for folder, text in (("a", "true"), ("b", "true"), ("c", "false")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.sh").write_text(text)
    (tmp_path / "b" / "x.sh").chmod(0o755)
    a, b, c = (Script.of(tmp_path / folder / "x.sh") for folder in "abc")

    assert a == b != c
    assert hash(a) == hash(b)
    (tmp_path / "a" / "x.sh").rename(tmp_path / "a" / "y.sh")
    assert a.content == Script.of(tmp_path / "a" / "y.sh").content
    assert a != Script.of(tmp_path / "a" / "y.sh")


def test_script_that_changes(tmp_path: Path) -> None:
    """It stays what it was, and tells."""
    path = tmp_path / "x.sh"
    path.write_text("true")
    step = Script.of(path)
    before = digests([step])
    path.write_text("false")

    assert step.has_changed()
    assert step.content == before[0] != digests([step])[0]


def test_recorded_step(tmp_path: Path) -> None:
    """What was written down equals what was done."""
    path = tmp_path / "x.sh"
    path.write_text("true")
    step = Script.of(path)
    known = Recorded.from_json(step.to_json())

    assert known == step
    assert hash(known) == hash(step)
    assert not known.has_changed()
    for damaged in ({}, {"kind": 1, "name": "x", "content": "y"}, []):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Recorded.from_json(damaged)  # type: ignore[arg-type]


def make(folder: Path) -> Path:
    (folder / "build" / "sub").mkdir(parents=True)
    for name in ("a.deb", "b.deb", "notes.txt", "sub/c.deb"):
        (folder / "build" / name).write_text(name)
    return folder


def test_digest_of_files(tmp_path: Path) -> None:
    """Content and names in the folder count, wherever that is; a pattern takes what it matches."""
    here, there = make(tmp_path / "here"), make(tmp_path / "there" / "deeper")
    wanted = ["build", "build/*.deb", "build/**/c.deb", "build/notes.txt"]
    for name in wanted:
        assert files_digest([here / name]) == files_digest([there / name])
    assert len({files_digest([here / name]) for name in wanted}) == len(wanted)
    assert files_digest([here / "build", here / "build/a.deb"]) == files_digest(
        [there / "build/a.deb", there / "build"]
    )

    before = {name: files_digest([here / name]) for name in wanted}
    (here / "build" / "a.deb").write_text("new")
    assert [name for name in wanted if files_digest([here / name]) != before[name]] == ["build", "build/*.deb"]
    (here / "build" / "sub" / "c.deb").rename(here / "build" / "sub" / "d.deb")
    with pytest.raises(SettingsError, match=r"^prepare_files: nothing is found at '.*c\.deb'"):
        files_digest([here / "build/**/c.deb"])


def test_files_are_mixed_into_each_step(tmp_path: Path) -> None:
    """So that all steps are done again if one of the files is another one."""
    make(tmp_path)
    steps = read([tmp_path / "build/a.deb", tmp_path / "build/b.deb"], places=[])
    bare, mixed = digests(steps), digests(steps, [tmp_path / "build/notes.txt"])

    assert bare == tuple(step.content for step in steps)
    assert len({*bare, *mixed}) == 4
    (tmp_path / "build" / "notes.txt").write_text("new")
    assert not set(mixed) & set(digests(steps, [tmp_path / "build/notes.txt"]))


def test_large_file_is_read_once(tmp_path: Path) -> None:
    """As long as it is the same; a change is found, be its size and its time the same or not."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (3 << 20))
    status, before = path.stat(), files_digest([path])
    assert files_digest([path]) == before
    path.write_bytes(b"y" * (3 << 20))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert files_digest([path]) != before


def test_files_are_found(tmp_path: Path) -> None:
    """In the first folder that has something of that name; what is nowhere is an error."""
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    (second / "own [1].txt").write_text("")
    places = [first, second]

    assert find_files(["build", "build/*.deb"], places, "x") == (first / "build", first / "build/*.deb")
    assert find_files("own [1].txt", places, "x") == (second / "own [1].txt",)
    assert find_files(None, places, "x") == ()
    for value, message in (
        ("*.rpm", rf"'\*\.rpm' matches no file in {first} or {second}\."),
        ("/*.rpm", r"'/\*\.rpm' matches no file\."),
        (["a\0b"], r"'a\\x00b' matches no file"),
        ([3], "3 is not a path"),
    ):
        with pytest.raises(SettingsError, match=f"^x: {message}"):
            find_files(value, places, "x")
