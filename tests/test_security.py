"""The security model: each line of it names tests that there are, and what of it can be seen without a node."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pi_images import MIB

from pytest_pidoc.errors import ImageError
from pytest_pidoc.guest import ssh
from pytest_pidoc.host import records, sockets
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.stock import fat
from pytest_pidoc.images.stock import recipe as raspios
from pytest_pidoc.images.stock.build import Recipe
from pytest_pidoc.images.stock.ext4 import Ext4
from pytest_pidoc.images.stock.fat import Fat
from pytest_pidoc.images.stock.partitions import read
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.machines import MODELS
from tests.images.stock.test_recipe import PATH, PI3, PROGRAM_64, build_in, disk_of, ext4_of, fat_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "docs" / "explanation" / "security.md"

image_tools = pytest.mark.skipif(
    not all(shutil.which(tool, path=PATH) for tool in ("mcopy", "mkfs.vfat", "debugfs", "mke2fs")),
    reason="mtools, dosfstools or e2fsprogs is not installed",
)


def rows() -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the model's tables of what holds: what is said, and the tests that show it."""
    holds = False
    for line in MODEL.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| "):
            holds = False
            continue
        claim, tests = (cell.strip() for cell in line.strip("|").split("|"))
        if holds and tests.strip("-"):
            yield claim, re.findall(r"`([^`]+)`", tests)
        holds = holds or tests == "test"


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.skipif(not MODEL.exists(), reason="the documentation is not here")
def test_each_line_of_the_model_has_a_test() -> None:
    """By its file below tests and its name."""
    model = list(rows())

    assert len(model) > 20
    for claim, tests in model:
        assert tests, claim
        for test in tests:
            file, _, name = test.partition("::")
            assert name in names_in(ROOT / "tests" / file), f"{claim}: {test}"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_shell_of_this_machine_is_used() -> None:
    """Programs are started with lists of arguments, so no text of a user's is ever a command."""
    in_guests = {"meter.py"}  # a program that runs in a node, where a benchmark's command is a shell's
    for path in (ROOT / "pytest_pidoc").rglob("*.py"):
        if path.name in in_guests:
            continue
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            assert name not in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}, path
            assert not any(keyword.arg == "shell" for keyword in call.keywords), path
            if name.startswith("subprocess.") and call.args and isinstance(call.args[0], ast.List):
                first = ast.unparse(call.args[0].elts[0])
                assert first not in {"'sh'", "'bash'", "'/bin/sh'"}, path


def test_sockets_of_ours_are_this_users_alone(tmp_path: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        sockets.listen(tmp_path / "s").close()
    finally:
        os.umask(before)

    assert stat.filemode((tmp_path / "s").stat().st_mode) == "srw-------"


def test_directories_of_clusters_are_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask is, a cluster's and the one that all are in."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        directory = records.new_directory()
    finally:
        os.umask(before)

    assert [stat.filemode(path.stat().st_mode) for path in (directory, directory.parent)] == ["drwx------"] * 2


def forged(content: bytes, name: str, other: str) -> bytes:
    """Return a FAT file system in which the long name of a file is *other*, of the same length."""
    assert len(name) == len(other)
    disk = bytearray(content)
    for start in range(0, len(name), 13):
        old, new = (_entry(each[start : start + 13]) for each in (name, other))
        position = next(
            at
            for at in range(0, len(disk) - 32, 32)
            if disk[at + 11] == 0x0F
            and (disk[at + 1 : at + 11], disk[at + 14 : at + 26], disk[at + 28 : at + 32]) == old
        )
        disk[position + 1 : position + 11], disk[position + 14 : position + 26] = new[:2]
        disk[position + 28 : position + 32] = new[2]
    return bytes(disk)


def _entry(part: str) -> tuple[bytes, bytes, bytes]:
    """Return the characters of a directory entry for a part of a long name, as they lie in it."""
    text = part.encode("utf-16-le")
    text = text if len(part) == 13 else (text + b"\0\0").ljust(26, b"\xff")
    return text[:10], text[10:22], text[22:26]


LONG = "a-long-name-to-be-forged-x.dtb"


def boot_partition(tmp_path: Path, content: bytes) -> Fat:
    disk = tmp_path / "cache" / "build" / "disk.raw"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(disk_of((0x0C, content)))
    return Fat(disk, read(disk)[0], BuildLog(tmp_path / "log"))


@image_tools
@pytest.mark.parametrize(
    "name",
    [
        "../../../../../../escapeds.dtb",
        "/tmp/escaped-from-an-image.dtb",
        "x\n::/../../../../escapeddd.dtb",
        "..\\..\\..\\..\\..\\..\\escapeds.dtb",
        "*-long-name-to-be-forged-?.dtb",
        "[a]ong-name-to-be-forged-x.dtb",
    ],
)
def test_a_forged_name_in_a_boot_partition_writes_nothing(tmp_path: Path, name: str) -> None:
    """Such a file is not taken; those beside it are."""
    content = forged(
        fat_of(tmp_path, config_txt=b"", kernel8_img=b"kernel", **{LONG.replace(".", "_"): b"escaped"}),
        LONG,
        name,
    )
    files = boot_partition(tmp_path, content)
    recipe = raspios.recipe(str(tmp_path / "x"), "pi3")
    build = build_in(files.disk.parent, recipe, machine=MODELS["pi3"], log=files.log)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    build.take_kernel(files)

    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {files.disk.parent / "kernel"}
    assert not list(Path("/tmp").glob("escaped*"))


@image_tools
def test_a_forged_size_in_a_boot_partition_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many files may say that they have the same gigabytes; none may have more than any kernel has."""
    monkeypatch.setattr(fat, "LARGEST", 64 * 1024)
    files = boot_partition(tmp_path, fat_of(tmp_path, kernel8_img=os.urandom(1 << 20)))

    with pytest.raises(ImageError, match=r"[Rr]eading kernel8\.img failed"):
        files.copy_out("kernel8.img", tmp_path / "kernel")
    assert (tmp_path / "kernel").stat().st_size <= 64 * 1024


@image_tools
def test_a_config_that_is_huge_is_refused(tmp_path: Path) -> None:
    files = boot_partition(tmp_path, fat_of(tmp_path, config_txt=b"#" * (fat.LARGEST_TEXT + 1)))

    with pytest.raises(
        ImageError, match=r"config\.txt in the boot partition has \d+ bytes, above the limit of 1048576"
    ):
        files.text("config.txt", tmp_path)


@image_tools
def test_a_file_of_holes_in_a_root_is_not_read(tmp_path: Path) -> None:
    """It says that it has a terabyte, and has nothing; a link is not followed to this machine's files."""
    root = tmp_path / "root.ext4"
    root.write_bytes(ext4_of(tmp_path, 16 * MIB, etc_release=b"x", bin_bash=PROGRAM_64))
    script = "sif /bin/bash size 1099511627776\nsymlink /bin/passwd /etc/passwd\n"
    (tmp_path / "script").write_text(script)
    subprocess.run(["debugfs", "-w", "-f", "script", root], cwd=tmp_path, check=True, env={"PATH": PATH})
    files = Ext4(root, BuildLog(tmp_path / "log"))

    assert files.exists("/bin/bash")
    assert files.read("/bin/bash") is None
    assert files.read("/bin/passwd") is None
    assert files.read("/etc/release") == b"x"
    assert {path.name for path in tmp_path.iterdir()} == {"root.ext4", "script", "log"}


@image_tools
@pytest.mark.parametrize(
    ("start", "sectors"),
    [(1, 0xFFFFFFFF), (0xFFFFFFFF, 1), (0xFFFFFFFF, 0xFFFFFFFF), (0, 100), (2048, 0x7FFFFFFF)],
)
def test_an_absurd_partition_table_is_refused(tmp_path: Path, start: int, sectors: int) -> None:
    """Nothing is written where it points, nor is a disk of that size made."""
    disk = tmp_path / "pi.img"
    entry = struct.pack("<B3xB3xII", 0, 0x83, start, sectors)
    disk.write_bytes(bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa" + bytes(8 * MIB))
    cache = Cache(tmp_path / "cache")

    with pytest.raises(ImageError, match="must lie between byte 512 and the image's end"):
        raspios.build(cache, Recipe("own", source.FileSource(str(disk))), PI3)
    assert list((cache.root / "images").iterdir()) == []
    assert sum(path.stat().st_size for path in cache.root.rglob("*")) < MIB


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/"])
def test_an_image_that_is_no_file_is_refused(tmp_path: Path, path: str) -> None:
    """A device might have no end."""
    with pytest.raises(ImageError, match="is not a regular file"):
        source.FileSource(path).identify(Cache(tmp_path / "cache"))


def test_an_image_of_an_absurd_size_is_refused_at_once(tmp_path: Path) -> None:
    """A file of holes costs nothing to make; to copy it would take hours."""
    from pytest_pidoc.images.fetch.unpack import unpack

    huge = tmp_path / "huge.img"
    with huge.open("wb") as stream:
        stream.truncate(1 << 43)

    with pytest.raises(ImageError, match="must unpack to at most 137439 MB"):
        unpack(huge, tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
def test_a_path_is_no_option_of_openssh(tmp_path: Path) -> None:
    """As OpenSSH itself reads the command line and the configuration: it expands and splits nothing."""
    directory = tmp_path / "a b,c=d;$(touch escaped)`touch escaped`'\"&%h#"
    directory.mkdir()
    key, known_hosts = directory / "id", directory / "known hosts"
    key.write_text("key")
    login = ssh.Login("127.0.0.1", 22, "pi", key, known_hosts)
    config = tmp_path / "config"
    config.write_text(f"Host pi-1\n  IdentityFile {ssh.quoted(key)}\n  UserKnownHostsFile {ssh.quoted(known_hosts)}\n")

    for command in (["ssh", "-G", *login.arguments()[1:]], ["ssh", "-G", "-F", str(config), "pi-1"]):
        said = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
        assert f"identityfile {ssh.unexpanded(key)}\n" in said  # expanded when it is opened, by then to "%"
        assert f"userknownhostsfile {known_hosts}\n" in said
    assert not Path("escaped").exists()
