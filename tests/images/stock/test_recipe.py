"""The raspios recipe: names, and images that cannot be used, refused before anything is booted."""

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from file_server import file_server

from pytest_pidoc.errors import ChecksumMismatch, DownloadError, ImageError, SettingsError
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.stock import build as stock
from pytest_pidoc.images.stock import recipe as raspios
from pytest_pidoc.images.stock.build import Recipe
from pytest_pidoc.images.stock.ext4 import Ext4
from pytest_pidoc.images.stock.fat import Fat
from pytest_pidoc.images.stock.first_boot import PATIENCE
from pytest_pidoc.images.stock.partitions import SECTOR, read
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.progress import Progress
from tests.images.stock.test_elf import attributes, program_32

MIB = 1 << 20
PI3 = MODELS["pi3-virt"]
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAM_64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 183) + bytes(44)
PROGRAM_32 = program_32(flags=0x400, attributes=attributes(b"\x06\x06"))
SHA256 = "ab" * 32

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=PATH) for tool in ("mcopy", "mkfs.vfat", "debugfs", "mke2fs")),
    reason="mtools, dosfstools or e2fsprogs is not installed",
)


class DonorWanted(Exception):
    """The build has found nothing wrong with the image, and goes on to Debian's kernel."""


@pytest.fixture(autouse=True)
def small_and_without_a_boot(monkeypatch):
    """Grow disks to megabytes, and stop where a build would need Debian's kernel."""

    def stop(*_, **__):
        raise DonorWanted

    monkeypatch.setattr(stock, "LEAST", 64 * MIB)
    monkeypatch.setattr(debian, "build", stop)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def build_in(directory, recipe, *, machine=PI3, log=None):
    """Return a build in that directory, of which nothing is done yet."""
    log = log or BuildLog(directory / "log")
    one = stock.Build(Cache(directory / "cache"), recipe, machine, directory, log, Progress(), PATIENCE)
    one.work.mkdir()
    return one


def ext4_of(directory, size, **files):
    """Return an ext4 file system of that size with these files, their names with ``_`` for ``/``."""
    tree = directory / "tree"
    for name, content in files.items():
        path = tree / name.replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tree.mkdir(exist_ok=True)
    image = directory / "ext4"
    with image.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True, env={"PATH": PATH})
    shutil.rmtree(tree)
    content = image.read_bytes()
    image.unlink()
    return content


def fat_of(directory, **files):
    """Return an 8 MiB FAT file system with these files, their names with ``_`` for ``.``."""
    image = directory / "fat"
    with image.open("wb") as stream:
        stream.truncate(8 * MIB)
    subprocess.run(["mkfs.vfat", image], check=True, env={"PATH": PATH}, stdout=subprocess.DEVNULL)
    for name, content in files.items():
        subprocess.run(["mcopy", "-i", image, "-", f"::/{name.replace('_', '.')}"], input=content, check=True)
    content = image.read_bytes()
    image.unlink()
    return content


def disk_of(*parts):
    """Return a disk with an MBR and these partitions: type and content."""
    position, entries, content = 1 * MIB, [], b""
    for kind, data in parts:
        entries.append(struct.pack("<B3xB3xII", 0, kind, position // SECTOR, len(data) // SECTOR))
        content += data
        position += len(data)
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa" + bytes(MIB - SECTOR) + content


@pytest.fixture
def pi_disk(tmp_path):
    """Return a small disk of the structure of Raspberry Pi OS whose programs are 64-bit."""
    return disk_of(
        (0x0C, fat_of(tmp_path, config_txt=b"arm_64bit=1\n", kernel8_img=gzip.compress(b"kernel"))),
        (0x83, ext4_of(tmp_path, 16 * MIB, bin_bash=PROGRAM_64, etc_os=b"")),
    )


def own(path):
    return Recipe(str(path), source.FileSource(str(path)))


def build(cache, path):
    return raspios.build(cache, own(path), PI3)


def left(cache):
    return [path.name for path in (cache.root / "images").iterdir()]


@pytest.mark.parametrize(
    ("text", "model", "name"),
    [
        ("raspios", "pi3-virt", "raspios:bookworm-arm64"),
        ("raspios", "pi2-virt", "raspios:bookworm-armhf"),
        ("raspios", "pi1-versatile", "raspios:buster"),
        ("raspios:buster", "pi3-virt", "raspios:buster"),
    ],
)
def test_published_images_have_names(text, model, name):
    """The family's name alone means the image for the model."""
    found = raspios.recipe(text, model)

    assert str(found) == name
    assert len(found.source.sha256) == 64


def test_any_other_image_is_named_by_url_and_checksum():
    """With the family's name or without it."""
    url = f"https://example.org/pi.img.xz#sha256={SHA256}"

    assert raspios.recipe(f"raspios:{url}", "pi3-virt").source == raspios.recipe(url, "pi3-virt").source
    assert raspios.recipe(url, "pi3-virt").source == source.FileSource("https://example.org/pi.img.xz", SHA256)


@pytest.mark.parametrize("text", ["raspios:potato", "raspi"])
def test_an_unknown_name_is_answered_with_what_there_is(text):
    """A typing mistake, for example."""
    with pytest.raises(SettingsError, match="raspios"):
        raspios.recipe(text, "pi3-virt")


def test_the_published_urls_name_what_they_serve():
    """Each over https, but for pidoc's own, and each with the checksum of its publisher."""
    for name, published in raspios.PUBLISHED.items():
        assert published.place.endswith((".img.xz", ".zip"))
        assert published.place.startswith("https://downloads.raspberrypi.com/") or name == "buster"
        assert source.parse(str(published), what="image") == published


def test_the_address_is_that_of_the_content(cache, tmp_path):
    """A file that is the same in another place is the same image; one changed byte makes another one."""
    for name, content in (("a", b"same"), ("b", b"same"), ("c", b"some")):
        (tmp_path / name).write_bytes(content)
    one, other, third = (raspios.key(cache, own(tmp_path / name), PI3) for name in "abc")

    assert one == other
    assert one != third


def test_an_image_that_is_right_gets_as_far_as_the_kernel(cache, tmp_path, pi_disk):
    """Partitions, architecture: all that is looked at before anything of Debian's is built."""
    (tmp_path / "pi.img").write_bytes(pi_disk)

    with pytest.raises(DonorWanted):
        build(cache, tmp_path / "pi.img")
    assert left(cache) == []


def test_a_users_file_is_never_written_to(cache, tmp_path, pi_disk):
    """Neither its content nor its times change, and it may be read-only."""
    path = tmp_path / "pi.img"
    path.write_bytes(pi_disk)
    path.chmod(0o400)
    before = path.stat()

    with pytest.raises(DonorWanted):
        build(cache, path)

    assert path.read_bytes() == pi_disk
    assert (path.stat().st_mtime_ns, path.stat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_disk_and_root_grow_to_a_power_of_two(tmp_path, pi_disk):
    """The file system fills its partition, the partition the disk; what was there is there."""
    one = build_in(tmp_path, own(tmp_path / "pi.img"))
    one.disk.write_bytes(pi_disk)

    boot, root = one.find_partitions()
    one.take_root(root)
    one.put_root_back(root)

    assert one.disk.stat().st_size == 64 * MIB
    boot, root = read(one.disk)
    assert root.end == 64 * MIB
    assert one.disk.read_bytes()[boot.start : boot.end] == pi_disk[boot.start : boot.end]
    content = one.disk.read_bytes()[root.start :]
    (tmp_path / "check").write_bytes(content)
    checked = subprocess.run(
        ["e2fsck", "-f", "-n", tmp_path / "check"], capture_output=True, text=True, check=True, env={"PATH": PATH}
    )
    assert f"{root.size // 1024} blocks" in checked.stdout or f"{root.size // 4096} blocks" in checked.stdout
    assert Ext4(tmp_path / "check", one.log).read("/bin/bash") == PROGRAM_64


def test_a_file_system_without_a_table_is_a_root(cache, tmp_path):
    """It grows as a whole."""
    (tmp_path / "root.img").write_bytes(ext4_of(tmp_path, 16 * MIB, bin_bash=PROGRAM_64))

    with pytest.raises(DonorWanted):
        build(cache, tmp_path / "root.img")


def test_a_root_before_another_partition_stays_as_large_as_it_is(tmp_path):
    """What lies behind it is not moved."""
    data = os.urandom(4 * MIB)
    disk = disk_of((0x83, ext4_of(tmp_path, 16 * MIB, bin_bash=PROGRAM_64)), (0x0C, data))
    one = build_in(tmp_path, own(tmp_path / "pi.img"))
    one.disk.write_bytes(disk)

    _, root = one.find_partitions()
    one.take_root(root)
    one.put_root_back(root)

    assert one.disk.read_bytes() == disk.ljust(64 * MIB, b"\0")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0x0C, bytes(MIB))], r"no Linux partition .*1: 0x0c"),
        ([(0x0C, bytes(MIB)), (0x83, bytes(MIB))], "no Linux partition"),
        ([(0x82, bytes(MIB))], "no Linux partition"),
        ([(0xEE, bytes(MIB))], "GPT"),
    ],
)
def test_a_disk_without_a_linux_that_can_be_read_is_refused(cache, tmp_path, parts, message):
    """No Linux partition, one that is empty, a GPT: each is told, and nothing is left."""
    (tmp_path / "pi.img").write_bytes(disk_of(*parts))

    with pytest.raises(ImageError, match=message):
        build(cache, tmp_path / "pi.img")
    assert left(cache) == []


def test_what_is_no_disk_is_refused(cache, tmp_path):
    """Any file, for example."""
    (tmp_path / "notes.txt").write_text("not a disk\n" * 1000)

    with pytest.raises(ImageError, match="no partition table"):
        build(cache, tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (PROGRAM_32, r"(?s)programs for armhf, ARMv6, but pi3-virt is a 64-bit model"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + bytes(44), "programs for x86-64"),
        (b"#!/bin/sh\n", "an unknown processor"),
    ],
)
def test_programs_for_another_processor_are_refused(cache, tmp_path, program, message):
    """A 32-bit image on a 64-bit model, a PC's disk, a shell that is none."""
    (tmp_path / "pi.img").write_bytes(disk_of((0x83, ext4_of(tmp_path, 16 * MIB, bin_bash=program))))

    with pytest.raises(ImageError, match=message):
        build(cache, tmp_path / "pi.img")


def test_a_root_without_a_shell_is_refused(cache, tmp_path):
    """A data partition, for example."""
    (tmp_path / "pi.img").write_bytes(disk_of((0x83, ext4_of(tmp_path, 16 * MIB, home_pi_notes=b"x"))))

    with pytest.raises(ImageError, match="no shell"):
        build(cache, tmp_path / "pi.img")


def test_a_damaged_root_is_told_with_the_checkers_words(cache, tmp_path, pi_disk):
    """What e2fsck does not mend by itself is not grown."""
    data = bytearray(pi_disk)
    root = 9 * MIB
    data[root + 1024 : root + 1024 + 56] = bytes(56)  # all of the superblock before its magic number
    for group in range(1, 3):  # nor may there be a copy
        data[root + group * 8 * MIB + 1024 : root + group * 8 * MIB + 3072] = bytes(2048)
    (tmp_path / "pi.img").write_bytes(bytes(data))

    with pytest.raises(ImageError, match="Checking the root file system failed"):
        build(cache, tmp_path / "pi.img")
    assert left(cache) == []


@pytest.mark.parametrize("kind", ["zip", "xz"])
def test_published_forms_are_downloaded_and_unpacked(cache, tmp_path, pi_disk, kind):
    """A zip as of 2019 and an xz as of today, by http."""
    import io
    import lzma

    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("2019-09-26-raspbian-buster-lite.img", pi_disk)
        packed = buffer.getvalue()
    else:
        packed = lzma.compress(pi_disk, preset=0)
    with file_server() as server:
        url, sha256 = server.add(f"/pi.{kind}", packed)

        with pytest.raises(DonorWanted):
            raspios.build(cache, raspios.recipe(f"raspios:{url}#sha256={sha256}", "pi3-virt"), PI3)
        with pytest.raises(ChecksumMismatch):
            raspios.build(cache, raspios.recipe(f"{url}#sha256={SHA256}", "pi3-virt"), PI3)
        with pytest.raises(DownloadError, match="404"):
            raspios.build(cache, raspios.recipe(f"{url}.gone#sha256={SHA256}", "pi3-virt"), PI3)
    assert left(cache) == []


FULL = """
import resource, sys
from pathlib import Path
from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.stock import build as stock, recipe as raspios
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.machines import MODELS
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    place = source.FileSource(sys.argv[1])
    raspios.build(Cache(Path(sys.argv[2])), stock.Recipe("mine", place), MODELS["pi3-virt"])
except ImageError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [30 * MIB, 1024 * MIB])
def test_a_disk_that_is_full_while_growing_is_told_and_nothing_is_left(tmp_path, pi_disk, limit):
    """A file may not become as large as it would have to: the image in the cache before is as good as before."""
    (tmp_path / "pi.img").write_bytes(pi_disk)
    cache = Cache(tmp_path / "cache")

    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "pi.img"), str(cache.root), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "cache directory" in done.stdout or "growing the root file system" in done.stdout.lower()
    assert left(cache) == []
    assert hashlib.sha256(Path(tmp_path / "pi.img").read_bytes()).digest() == hashlib.sha256(pi_disk).digest()


def test_files_of_the_boot_partition_are_read_and_written(tmp_path, pi_disk):
    """By name in any case; the rest of the disk stays as it is."""
    disk = tmp_path / "pi.img"
    disk.write_bytes(pi_disk)
    boot, root = read(disk)
    files = Fat(disk, boot, BuildLog(tmp_path / "log"))
    (tmp_path / "ssh").write_bytes(b"")

    files.copy_in(tmp_path / "ssh", "ssh")
    files.copy_in(tmp_path / "ssh", "ssh")

    assert {name.lower() for name in files.names()} == {"config.txt", "kernel8.img", "ssh"}
    assert files.text("CONFIG.TXT", tmp_path) == "arm_64bit=1\n"
    assert files.text("cmdline.txt", tmp_path) == ""
    with pytest.raises(ImageError, match=r"does not contain kernel7\.img; it contains config\.txt"):
        files.copy_out("kernel7.img", tmp_path / "kernel")
    assert disk.read_bytes()[root.start :] == pi_disk[root.start :]


def test_a_boot_partition_that_is_none_is_an_image_error(tmp_path):
    """The type says FAT, and there is none."""
    disk = tmp_path / "pi.img"
    disk.write_bytes(disk_of((0x0C, bytes(4 * MIB))))

    with pytest.raises(ImageError, match="Listing the boot partition failed"):
        Fat(disk, read(disk)[0], BuildLog(tmp_path / "log")).names()


def test_a_tree_is_put_into_a_root_as_roots(tmp_path):
    """Directories, links, empty files and programs, as a kernel's modules have them."""
    root = tmp_path / "root.ext4"
    root.write_bytes(ext4_of(tmp_path, 16 * MIB, lib_modules_old=b""))
    tree = tmp_path / "6.1.0"
    (tree / "kernel" / "fs").mkdir(parents=True)
    (tree / "kernel" / "fs" / "vfat.ko").write_bytes(os.urandom(70_000))
    (tree / "modules.dep").write_bytes(b"")
    (tree / "build").symlink_to("/usr/src/linux")
    files = Ext4(root, BuildLog(tmp_path / "log"))

    files.copy_in(tree, "/lib/modules")

    subprocess.run(["e2fsck", "-f", "-n", root], check=True, capture_output=True, env={"PATH": PATH})
    assert files.read("/lib/modules/6.1.0/kernel/fs/vfat.ko") == (tree / "kernel" / "fs" / "vfat.ko").read_bytes()
    assert files.exists("/lib/modules/6.1.0/build")
    assert not files.exists("/lib/modules/6.1.0/source")
    said = files.log.path.read_text()
    files._debugfs("stat /lib/modules/6.1.0/kernel", "looking")
    assert "User:     0   Group:     0" in files.log.path.read_text()[len(said) :]


def test_a_tree_that_does_not_fit_is_an_image_error(tmp_path):
    """The program that writes it says so in words only."""
    root = tmp_path / "root.ext4"
    root.write_bytes(ext4_of(tmp_path, 16 * MIB, lib_modules_old=b""))
    (tmp_path / "6.1.0").mkdir()
    (tmp_path / "6.1.0" / "large").write_bytes(os.urandom(20 * MIB))

    with pytest.raises(ImageError, match=r"Writing /lib/modules/6\.1\.0 failed"):
        Ext4(root, BuildLog(tmp_path / "log")).copy_in(tmp_path / "6.1.0", "/lib/modules")


def test_missing_tools_are_named_with_the_command_that_installs_them(cache, tmp_path, monkeypatch):
    """Whoever lacks mtools is told what to type."""
    (tmp_path / "pi.img").write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pytest_pidoc.images.store.tools.search_path", lambda: str(tmp_path))

    with pytest.raises(ImageError, match=r"(?s)mcopy.*apt-get install .*mtools"):
        build(cache, tmp_path / "pi.img")
