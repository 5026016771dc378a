"""Who uses an image: told by locks, whoever holds them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support import child, eventually

from pytest_pidoc.errors import ImageError, ImageInUse
from pytest_pidoc.host import processes, records
from pytest_pidoc.images.store import usage
from pytest_pidoc.lifecycle import reaper

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Make the directory of an image."""
    path = tmp_path / "cache" / "images" / ("ab" * 32)
    path.mkdir(parents=True)
    (path / "disk.qcow2").write_bytes(b"disk")
    return path


def is_free(image: Path) -> bool:
    try:
        with usage.claimed(image.parent.parent, image):
            return True
    except ImageInUse:
        return False


def test_an_image_is_in_use_as_long_as_it_is_held(image: Path) -> None:
    """Several may hold it; when the last one has let go, it is free."""
    held = [usage.hold(image.parent.parent, image) for _ in range(2)]
    assert not is_free(image)
    for descriptor in held:
        assert descriptor is not None
        assert not is_free(image)
        os.close(descriptor)

    assert is_free(image)


def test_a_child_that_inherits_the_descriptor_holds_the_image(image: Path) -> None:
    """So the reaper does, when the process that started the nodes is gone; SIGKILL lets go."""
    descriptor = usage.hold(image.parent.parent, image)
    assert descriptor is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as process:
        os.close(descriptor)
        assert not is_free(image)
        process.send_signal(signal.SIGKILL)

    assert is_free(image)


@pytest.mark.usefixtures("clusters")
def test_the_reaper_of_a_cluster_holds_its_images(image: Path) -> None:
    """Until the cluster is gone."""
    with child() as owner, contextlib.ExitStack() as closing:
        directory = records.new_directory()
        records.write(directory, {"owner": processes.identify(owner.pid), "engine": "local"})
        descriptor = usage.hold(image.parent.parent, image)
        assert descriptor is not None
        process = reaper.start(directory, holding=[descriptor])
        closing.callback(process.wait)
        closing.callback(process.kill)
        os.close(descriptor)
        assert not is_free(image)

        records.remove(directory)
        assert process.wait(20) == 0
        assert is_free(image)


def test_whoever_removes_an_image_is_waited_for(image: Path) -> None:
    """A start that comes too late is told that the image is gone, and does not run from half of it."""
    program = (
        "import pathlib, sys; from pytest_pidoc.images.store import usage; image = pathlib.Path(sys.argv[1]);"
        "print('began', flush=True); usage.hold(image.parent.parent, image)"
    )
    command = [sys.executable, "-c", program, image]
    with contextlib.ExitStack() as lock:
        lock.enter_context(usage.claimed(image.parent.parent, image))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as late:
            assert late.stdout is not None
            assert late.stdout.readline() == "began\n"
            time.sleep(0.3)
            assert late.poll() is None
            image.rename(image.with_name("gone"))
            lock.close()
            assert "has just removed the image" in late.communicate(timeout=20)[1]

    assert late.returncode == 1


def test_an_image_that_is_gone_cannot_be_held(image: Path) -> None:
    """Nothing is left open."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 # names are enough
    with pytest.raises(ImageError, match="just removed the image"):
        usage.hold(image.parent.parent, image.with_name("cd" * 32))

    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_what_is_not_in_the_cache_is_not_held(image: Path, tmp_path: Path) -> None:
    """The guest of a published container image has no files here."""
    assert usage.hold(tmp_path / "other", image) is None


def test_the_last_use_is_remembered(image: Path) -> None:
    """By it prune tells what was not used for long."""
    root = image.parent.parent
    assert usage.last_used(root, image) is None
    assert is_free(image)
    assert usage.last_used(root, image) is None, "to ask is no use"
    descriptor = usage.hold(root, image)
    assert descriptor is not None
    os.close(descriptor)

    assert abs(time.time() - (usage.last_used(root, image) or 0)) < 60


def test_a_cache_without_locks_runs_nodes_and_removes_nothing(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be told whether an image is in use, it stays."""

    def no_locks(file: int, operation: int) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    descriptor = usage.hold(image.parent.parent, image)
    assert descriptor is not None
    os.close(descriptor)
    with (
        pytest.raises(ImageInUse, match=r"Cannot find out whether .* is in use: No locks available"),
        usage.claimed(image.parents[1], image),
    ):
        pass


@pytest.mark.qemu
def test_a_disk_that_a_qemu_has_open_is_in_use(image: Path) -> None:
    """Nodes that outlive their owner have no reaper; QEMU's own lock speaks for them, also from a container."""
    disk = image / "disk.qcow2"
    disk.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    disk.chmod(0o444)
    block = {"driver": "qcow2", "node-name": "disk", "read-only": True}
    block["file"] = {"driver": "file", "filename": str(disk)}
    assert is_free(image)
    machine = ["-M", "virt", "-net", "none", "-display", "none", "-S", "-blockdev", json.dumps(block)]
    with subprocess.Popen(["qemu-system-aarch64", *machine], stdin=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: not is_free(image), timeout=30)
        finally:
            process.kill()

    assert is_free(image)
