"""The image cache: shared, checked, never half full."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_pidoc.errors import ChecksumMismatch, ImageError, ImageInUse, PidocError
from pytest_pidoc.images.store import usage
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import Manifest

KEY = "ab" * 32


def make(directory, log):
    """Make a small but real image: a disk and a private key."""
    (directory / "disk").write_bytes(b"disk" * 64 * 1024)
    (directory / "id").write_bytes(b"secret")
    return Manifest(
        recipe="debian:bookworm",
        architecture="arm64",
        key="",
        files={"disk": image_file(directory / "disk"), "private_key": image_file(directory / "id")},
        user="pi",
        host_keys=("ssh-ed25519 AAAA",),
    )


def must_not_make(directory, log):
    pytest.fail("built what is there")


def left(cache):
    """Return the names of all that is in the cache's directory of images."""
    return sorted(path.name for path in (cache.root / "images").iterdir())


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_a_built_image_is_found_again_and_not_built_twice(cache):
    """The same key gives the same image, to this process and to others."""
    built = cache.build(KEY, make, what="an image")

    assert cache.find(KEY) == built
    assert Cache(cache.root).build(KEY, must_not_make, what="an image") == built
    assert built.manifest.key == KEY
    assert built.manifest.created
    assert cache.images() == [built]


def test_an_unknown_key_is_no_image(cache):
    """A cache that has never been written to is an empty one."""
    assert cache.find(KEY) is None
    assert cache.images() == []


def test_the_files_of_a_finished_image_cannot_be_written_and_the_key_not_read(cache):
    """Nobody changes an image by mistake; the private key and the directories are their owner's alone."""
    image = cache.build(KEY, make, what="an image")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in image.path.iterdir()}
    assert modes == {"disk": 0o444, "id": 0o600, "manifest.json": 0o444}
    assert stat.S_IMODE(image.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("role", ["disk", "private_key"])
def test_one_flipped_byte_is_found_and_the_tip_names_the_remedy(cache, role):
    """A corrupted image is never used."""
    path = cache.build(KEY, make, what="an image").file(role)
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)

    with pytest.raises(
        ChecksumMismatch, match="pidoc build --rebuild --image debian:bookworm --model pi3-virt"
    ) as error:
        cache.find(KEY)
    assert str(path) in str(error.value)


def test_a_flipped_byte_that_leaves_no_trace_is_found_by_verify(cache):
    """Size, time, inode and the blocks that are looked at can be the same; a full check hashes anyway."""
    image = cache.build(KEY, make, what="an image")
    path = image.file("disk")
    overwrite(path, 5000, b"D")

    assert cache.find(KEY) == image
    with pytest.raises(ChecksumMismatch):
        cache.verify(image)


def overwrite(path, offset, content):
    """Write to a finished file without a trace in its size, times of change or inode."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_full_of_zeros_is_found_whatever_its_time_says(cache):
    """What a crash leaves on some file systems has the right size and time: a few blocks are looked at, too."""
    path = cache.build(KEY, make, what="an image").file("disk")
    overwrite(path, 0, bytes(path.stat().st_size))

    with pytest.raises(ChecksumMismatch):
        cache.find(KEY)


def test_a_missing_file_is_a_mismatch(cache):
    """An image that lost a file is not used."""
    cache.build(KEY, make, what="an image").file("disk").unlink()

    with pytest.raises(ChecksumMismatch, match=r"Cannot read the image file .*No such file"):
        cache.find(KEY)


def test_a_damaged_image_is_built_again_on_demand(cache):
    """``rebuild`` puts a good image in the place of a damaged one."""
    image = cache.build(KEY, make, what="an image")
    image.file("disk").unlink()

    assert cache.build(KEY, make, what="an image", rebuild=True).file("disk").is_file()
    assert cache.find(KEY)
    assert left(cache) == [KEY]


def test_touched_files_are_hashed_and_then_trusted_again(cache):
    """A changed time, e.g. of a restored backup, costs one full check and no more."""
    image = cache.build(KEY, make, what="an image")
    os.utime(image.file("disk"), (1, 1))
    stamp = cache.root / "stamps" / f"{KEY}.json"
    before = stamp.read_text()

    assert cache.find(KEY) == image
    assert stamp.read_text() != before


def test_a_changed_manifest_does_not_vouch_for_other_files(cache):
    """A manifest that names other hashes is noticed, as the stamp covers it too."""
    image = cache.build(KEY, make, what="an image")
    path = image.path / "manifest.json"
    path.chmod(0o600)
    path.write_text(path.read_text().replace(image.manifest.files["disk"].sha256, "0" * 64))

    with pytest.raises(ChecksumMismatch):
        cache.find(KEY)


def test_a_broken_manifest_is_an_image_error(cache):
    """Half a manifest is told apart from no image."""
    image = cache.build(KEY, make, what="an image")
    path = image.path / "manifest.json"
    path.chmod(0o600)
    path.write_text(path.read_text()[:100])

    with pytest.raises(ImageError, match="is missing or invalid"):
        cache.find(KEY)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImageError("mmdebstrap failed"), ZeroDivisionError])
def test_a_build_that_fails_or_is_interrupted_leaves_nothing_half_made(cache, error):
    """Ctrl-C and errors pass through; the next build starts from nothing."""

    def fail(directory, log):
        (directory / "disk").write_bytes(b"half")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        cache.build(KEY, fail, what="an image")

    assert left(cache) == []
    assert cache.build(KEY, make, what="an image")


KILLED = """
import pathlib, sys, time
from pytest_pidoc.images.store.cache import Cache
def make(directory, log):
    (directory / "disk").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
Cache(pathlib.Path(sys.argv[1])).build(sys.argv[2], make, what="an image")
"""


@contextlib.contextmanager
def building(cache, key):
    """Another process that is half way through a build."""
    command = [sys.executable, "-c", KILLED, str(cache.root), key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "half\n"
        yield process
        process.kill()


def test_what_a_killed_build_left_is_removed_by_the_next_one(cache):
    """After SIGKILL nothing can clean up, so the next builder does: of this image and of others."""
    other = "cd" * 32
    with building(cache, KEY), building(cache, other):
        pass  # both are killed here
    assert left(cache) == [f".new-{KEY}", f".new-{other}"]

    cache.build(KEY, make, what="an image")

    assert left(cache) == [KEY]


def test_a_build_of_another_image_that_is_still_at_work_is_left_alone(cache):
    """Leftovers are told from live work by the lock."""
    other = "cd" * 32
    with building(cache, other):
        cache.build(KEY, make, what="an image")

        assert left(cache) == [f".new-{other}", KEY]


def test_ctrl_c_ends_a_build_at_once_and_leaves_nothing(cache):
    """The terminal's SIGINT reaches a build in another process; it removes what it began."""
    with building(cache, KEY) as process:
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0

    assert time.monotonic() - start < 5
    assert left(cache) == []


def test_a_full_disk_is_an_image_error_with_a_tip_and_finished_images_stay(cache):
    """Real ENOSPC, from /dev/full: the error names the remedy, what was there before is as good as before."""
    finished = cache.build(KEY, make, what="an image")

    def fill(directory, log):
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(ImageError, match=r"(?s)No space left.*--pidoc-cache-dir") as error:
        cache.build("cd" * 32, fill, what="another image")

    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC
    assert left(cache) == [KEY]
    cache.verify(finished)


def test_a_cache_directory_that_cannot_be_made_is_an_image_error_with_a_tip(tmp_path):
    """A file where the directory should be: works as a test for root too, whom no mode stops."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ImageError, match=r"(?s)Cannot use the cache directory.*--pidoc-cache-dir"):
        Cache(tmp_path / "file" / "cache").build(KEY, make, what="an image")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_is_not_writable_is_an_image_error_but_can_be_read(cache):
    """A shared cache that an administrator filled serves those who may only read it."""
    image = cache.build(KEY, make, what="an image")
    for path in (cache.root / "stamps", cache.root / "images", cache.root):
        path.chmod(0o500)
    try:
        assert cache.find(KEY) == image
        with pytest.raises(ImageError, match="--pidoc-cache-dir"):
            cache.build("cd" * 32, make, what="another image")
    finally:
        for path in (cache.root, cache.root / "images", cache.root / "stamps"):
            path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("opened", ["", "images", "private key"])
def test_another_users_cache_is_named_as_such(short_path, opened):
    """Who may not use a cache is told whose it is; who was let in by its owner may use it."""
    short_path.chmod(0o755)
    cache = Cache(short_path / "cache")
    image = cache.build(KEY, make, what="an image")
    if opened:
        for path in (cache.root, cache.root / "images", image.path):
            path.chmod(0o755)
    if opened == "private key":
        image.file("private_key").chmod(0o644)
    os.seteuid(65534)
    try:
        if opened == "private key":
            assert cache.find(KEY) == image
            return
        with pytest.raises(ImageError, match=r"belongs to root, but pidoc runs as \w+") as error:
            cache.build(KEY, must_not_make, what="an image")
        assert "--pidoc-cache-dir" in error.value.tip
        assert not isinstance(error.value, ChecksumMismatch)
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("look", [Cache.images, Cache.unreadable, Cache.leftovers])
def test_another_users_cache_does_not_look_empty(short_path, look):
    """`pidoc images` and `pidoc prune` would list nothing, and free nothing of nothing."""
    short_path.chmod(0o755)
    cache = Cache(short_path / "cache")
    assert look(cache) == []  # there is none yet
    cache.build(KEY, make, what="an image")
    os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match=r"belongs to root, but pidoc runs as \w+"):
            look(cache)
    finally:
        os.seteuid(0)


def test_a_file_system_without_locks_is_said(cache, monkeypatch):
    """An NFS without its lock service: an error at once, not a wait for nobody."""

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ImageError, match=r"(?s)No locks available.*--pidoc-cache-dir"):
        cache.build(KEY, must_not_make, what="an image")


def test_an_image_in_use_is_neither_removed_nor_replaced(cache):
    """Its nodes would go on with files of another build, or die at their next start."""
    image = cache.build(KEY, make, what="an image")
    descriptor = usage.hold(cache.root, image.path)
    assert descriptor is not None

    with pytest.raises(ImageInUse):
        cache.remove(image.path)
    with pytest.raises(ImageInUse):
        cache.build(KEY, must_not_make, what="an image", rebuild=True)
    assert cache.find(KEY) == image

    os.close(descriptor)
    cache.build(KEY, make, what="an image", rebuild=True)
    cache.remove(image.path)
    assert cache.find(KEY) is None


def test_an_image_that_is_being_built_is_not_removed(cache):
    """Its builder is alive, and what it has begun stays."""
    with building(cache, KEY):
        (leftover,) = cache.leftovers()
        with pytest.raises(PidocError):
            cache.remove_leftover(leftover)
        with pytest.raises(PidocError):
            cache.remove(cache.root / "images" / KEY)
        assert left(cache) == [f".new-{KEY}"]

    cache.remove_leftover(leftover)
    assert left(cache) == []


def test_a_removed_image_is_gone(cache):
    """``pidoc prune`` leaves no trace of an image."""
    cache.remove(cache.build(KEY, make, what="an image").path)

    assert cache.find(KEY) is None
    assert left(cache) == []


def test_images_are_listed_oldest_first(cache):
    """The list does not depend on the file system's order."""
    for number, created in (("11", "2024-01-02"), ("22", "2024-01-01")):
        image = cache.build(number * 32, make, what="an image")
        manifest = dataclasses.replace(image.manifest, created=created)
        (image.path / "manifest.json").chmod(0o600)
        (image.path / "manifest.json").write_text(manifest.to_json())

    assert [image.path.name[:2] for image in cache.images()] == ["22", "11"]


def test_image_with_an_unreadable_manifest_hides_no_other(cache: Cache) -> None:
    """One directory that another version wrote does not make the whole cache unusable."""
    image = cache.build(KEY, make, what="an image")
    other = cache.root / "images" / ("99" * 32)
    other.mkdir()
    (other / "manifest.json").write_text('{"format": 99}')

    assert cache.images() == [image]
    assert cache.unreadable() == [other]

    cache.remove(other)
    assert cache.unreadable() == []
