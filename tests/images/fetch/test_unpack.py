"""Unpacking: the one disk image in a file, bounded."""

import bz2
import dataclasses
import gzip
import lzma
import os
import stat
import subprocess
import sys
import zipfile

import pytest

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.fetch.unpack import LIMITS, unpack

# Data, a megabyte of zeros, data: 1.2 MB and not a multiple of anything.
CONTENT = os.urandom(100_001) + bytes(1 << 20) + os.urandom(70_000)


def packed(tmp_path, kind, content=CONTENT):
    """Return a file of that kind with *content* in it."""
    path = tmp_path / f"disk.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("2019-09-26-raspbian-buster-lite.img", content)
    else:
        pack = {"xz": lzma.compress, "gz": gzip.compress, "img": bytes, "bz2": bz2.compress}[kind]
        path.write_bytes(pack(content))
    return path


def zipped(tmp_path, *members):
    """Return a zip archive with these members: names, or ``ZipInfo``."""
    path = tmp_path / "disk.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(member, b"content")
    return path


@pytest.mark.parametrize("kind", ["zip", "xz", "gz", "img"])
def test_every_kind_is_unpacked_without_filling_its_holes(tmp_path, kind):
    """What it is, its first bytes say; a run of zeros takes no room; the source stays as it is."""
    source = packed(tmp_path, kind)
    before = source.stat()

    unpack(source, tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (tmp_path / "out").stat().st_blocks * 512 < 300_000
    assert (source.stat().st_mtime_ns, source.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_zeros_at_the_end_are_there(tmp_path):
    """A disk's size is part of what it is."""
    unpack(packed(tmp_path, "xz", b"x" + bytes(10 << 20)), tmp_path / "out")

    assert (tmp_path / "out").stat().st_size == 1 + (10 << 20)


def test_several_xz_streams_are_one_file(tmp_path):
    """As pixz and cat write them, with the padding that the format allows."""
    source = tmp_path / "disk.img.xz"
    source.write_bytes(lzma.compress(CONTENT) + bytes(8) + lzma.compress(b"more") + bytes(4))

    unpack(source, tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == CONTENT + b"more"


@pytest.mark.parametrize("kind", ["zip", "xz", "gz"])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_what_ends_in_the_middle_is_an_error(tmp_path, kind, keep):
    """A file that did not arrive whole is no image."""
    source = packed(tmp_path, kind)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * keep)])

    with pytest.raises(ImageError, match="Cannot unpack"):
        unpack(source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "xz", "gz"])
def test_one_flipped_byte_is_found(tmp_path, kind):
    """All three kinds carry checksums."""
    source = packed(tmp_path, kind)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    source.write_bytes(data)

    with pytest.raises(ImageError, match="Cannot unpack"):
        unpack(source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "xz", "gz"])
def test_a_bomb_is_stopped(tmp_path, kind):
    """A gigabyte of nothing from a file of a few kilobytes; not one byte over the limit is written."""
    source = packed(tmp_path, kind, bytes(16 << 20))
    limits = dataclasses.replace(LIMITS, ratio=100, harmless=1 << 20)

    with pytest.raises(ImageError, match="must unpack to at most"):
        unpack(source, tmp_path / "out", limits=limits)

    assert (tmp_path / "out").stat().st_size <= limits.harmless + source.stat().st_size * 100


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path):
    """What the archive says of a member is believed as little as its checksum allows."""
    source = packed(tmp_path, "zip", bytes(4 << 20))
    data = source.read_bytes().replace((4 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    source.write_bytes(data)

    with pytest.raises(ImageError, match="Cannot unpack"):
        unpack(source, tmp_path / "out")

    assert (tmp_path / "out").stat().st_size <= 1000


def test_a_file_over_the_absolute_limit_is_refused(tmp_path):
    """Also if nothing is packed."""
    with pytest.raises(ImageError, match="must unpack to at most"):
        unpack(packed(tmp_path, "img"), tmp_path / "out", limits=dataclasses.replace(LIMITS, size=1000))


def test_a_decompressor_that_wants_all_memory_gets_none(tmp_path):
    """An xz file says how much its decompressor needs."""
    with pytest.raises(ImageError, match=r"(?i)memory"):
        unpack(packed(tmp_path, "xz"), tmp_path / "out", limits=dataclasses.replace(LIMITS, memory=1 << 16))


@pytest.mark.parametrize("name", ["../disk.img", "/etc/disk.img", "a/../../disk.img", "..\\disk.img", "C:/disk.img"])
def test_a_path_outside_is_refused(tmp_path, name):
    """Whoever packs such a thing means no good, whatever else is in the archive."""
    with pytest.raises(ImageError, match="outside"):
        unpack(zipped(tmp_path, "disk.img", name), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_link_is_refused(tmp_path):
    """A symbolic link in a zip archive is a file whose mode says so."""
    link = zipfile.ZipInfo("disk.img")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(ImageError, match="is not a regular file"):
        unpack(zipped(tmp_path, link), tmp_path / "out")


@pytest.mark.parametrize(("members", "found"), [(["README"], "none"), (["a.img", "b/b.img"], r"a\.img, b/b\.img")])
def test_exactly_one_image_must_be_in_it(tmp_path, members, found):
    """Which of two is meant nobody can know."""
    with pytest.raises(ImageError, match=f"exactly one file .*but contains {found}"):
        unpack(zipped(tmp_path, *members), tmp_path / "out")


def test_a_named_member_is_taken_from_a_folder(tmp_path):
    """As the archive of a repository has them."""
    unpack(zipped(tmp_path, "repo-1/README", "repo-1/kernel-qemu"), tmp_path / "out", member="kernel-qemu")

    assert (tmp_path / "out").read_bytes() == b"content"


def test_an_encrypted_member_is_told(tmp_path):
    """Nobody is asked for a password in a test run."""
    source = zipped(tmp_path, "disk.img")
    data = bytearray(source.read_bytes())
    data[6] |= 1  # of the local header and of the central directory: general purpose bit flag
    data[data.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(data)

    with pytest.raises(ImageError, match="encrypted"):
        unpack(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("start", "command"),
    [(b"QFI\xfb", "qemu-img convert"), (bz2.compress(b"x"), "bunzip2"), (b"\x28\xb5\x2f\xfd", "zstd")],
)
def test_other_kinds_are_named_with_the_command_that_unpacks_them(tmp_path, start, command):
    """A qcow2 image taken for a disk would have no partitions, and nobody would know why."""
    (tmp_path / "disk").write_bytes(start + bytes(100))

    with pytest.raises(ImageError, match=command):
        unpack(tmp_path / "disk", tmp_path / "out")


def test_a_missing_file_is_an_image_error(tmp_path):
    """The path is named."""
    with pytest.raises(ImageError, match="nowhere"):
        unpack(tmp_path / "nowhere", tmp_path / "out")


FULL = """
import resource, sys
from pathlib import Path
from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.fetch.unpack import unpack
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except ImageError as error:
    print(error)
"""


def test_a_full_disk_is_named_with_a_remedy(tmp_path):
    """A write that fails, as on a disk that has no room."""
    arguments = [str(packed(tmp_path, "xz")), str(tmp_path / "out")]

    done = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, check=True)

    assert "--pidoc-cache-dir" in done.stdout


def test_some_room_is_left_for_others(tmp_path):
    """It stops before the disk is full to the last byte."""
    source = tmp_path / "disk.img"
    with source.open("wb") as stream:
        for _ in range(66):
            stream.write(os.urandom(1 << 20))

    with pytest.raises(ImageError, match="No space left"):
        unpack(source, tmp_path / "out", limits=dataclasses.replace(LIMITS, room=1 << 60))
