"""The debian recipe for real: Debian's mirror, mmdebstrap, an emulated second stage, and what comes out of it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.images.store.image import Image

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed"),
]

BUILD = """
import pathlib, sys
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.values.progress import TerminalProgress
debian.build(Cache(pathlib.Path(sys.argv[1])), debian.recipe("debian"), "arm64", progress=TerminalProgress(sys.stdout))
"""


def test_the_image_is_what_its_manifest_says(image: Image, cache_dir: Path) -> None:
    """Every part is there with its hash, and every package that went into it is named with its own."""
    Cache(cache_dir).verify(image)

    assert {"kernel", "initrd", "disk", "private_key", "public_key"} <= set(image.manifest.files)
    assert image.manifest.user == "pi"
    assert image.manifest.host_keys[0].startswith("ssh-ed25519 AAAA")
    assert image.manifest.key == debian.key(debian.recipe("debian"), "arm64")
    sources = {source.name: source for source in image.manifest.sources}
    assert {"busybox-static", "libc6", "openssh-server", "python3", "sysbench", "systemd"} <= set(sources)
    assert any(name.startswith("linux-image-") for name in sources)
    assert all(len(source.sha256) == 64 and source.version for source in sources.values())
    assert stat.S_IMODE(image.file("private_key").stat().st_mode) == 0o600


def _bytes_read() -> int:
    """Return how many bytes this process has read so far, from whatever there is."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_building_again_reads_little(image: Image, cache_dir: Path) -> None:
    """The second time the image is found, without hashing a gigabyte."""
    before = _bytes_read()

    assert debian.build(Cache(cache_dir), debian.recipe("debian"), "arm64") == image
    assert _bytes_read() - before < image.manifest.files["disk"].size / 100


def test_the_disk_is_small_and_holds_a_clean_file_system(image: Image, tmp_path: Path) -> None:
    """4 GiB for the guest, less than 500 MB on the host, nothing for fsck to do, and a journal that may be torn."""
    assert image.file("disk").stat().st_size < 500_000_000
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image.file("disk"), raw], check=True)

    assert raw.stat().st_size == debian.DISK_SIZE
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["e2fsck", "-f", "-n", raw], check=True, env=environment, stdout=subprocess.DEVNULL)
    listed = subprocess.run(
        ["debugfs", "-R", "features", raw], check=True, env=environment, capture_output=True, text=True
    ).stdout.split()
    assert "has_journal" in listed
    assert "metadata_csum" not in listed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("step", ["downloading", "in the guest"])
def test_an_interrupted_build_ends_its_commands(tmp_path: Path, number: signal.Signals, step: str) -> None:
    """Ctrl-C and SIGKILL, early and late: no mmdebstrap and no QEMU goes on, and nothing passes for an image."""
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert any(step in line for line in process.stdout)
        time.sleep(3)

        process.send_signal(number)
        process.wait(30)

    end = time.monotonic() + 30
    while (alive := _commands(tmp_path)) and time.monotonic() < end:
        time.sleep(0.2)
    assert alive == []
    assert Cache(tmp_path).images() == []
    if number == signal.SIGINT:
        assert list((tmp_path / "images").iterdir()) == []


def _commands(directory: Path) -> list[str]:
    """Return the command lines of processes that name *directory*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # gone
            continue
        if str(directory) in line:
            found.append(line)
    return found
