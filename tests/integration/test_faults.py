"""Starts that go wrong, and owners that are killed: an error in bounded time that says what to do, nothing left."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from leftovers import leftovers

from pytest_pidoc import BootTimeout, KernelPanic, NodeDied, PidocError, Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.host import records
from pytest_pidoc.images.store.image import MANIFEST, Image

REAPED_WITHIN = 10.0  # seconds, as promised


@pytest.fixture
def broken_settings(settings: Settings, image: Image, tmp_path: Path) -> Settings:
    """Settings with a cache whose image has a disk without a file system."""
    directory = tmp_path / "cache" / "images" / image.path.name
    directory.mkdir(parents=True)
    for file in image.manifest.files.values():
        (directory / file.name).symlink_to(image.path / file.name)
    disk = image.manifest.files["disk"].name
    (directory / disk).unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", directory / disk, "64M"], check=True)
    from pytest_pidoc.images.store.cache import image_file

    files = {**image.manifest.files, "disk": image_file(directory / disk)}
    (directory / MANIFEST).write_text(dataclasses.replace(image.manifest, files=files).to_json())
    return dataclasses.replace(settings, cache_dir=tmp_path / "cache", artifacts=tmp_path / "artifacts")


@pytest.mark.qemu
def test_a_guest_without_a_root_device_fails_at_once(broken_settings: Settings) -> None:
    """The wait ends when the guest gives up, not with the time-out; the error shows its last words and their place."""
    start = time.monotonic()

    with pytest.raises((KernelPanic, NodeDied)) as caught:
        Cluster.up(engine="local", start="cold", boot_timeout=600, settings=broken_settings)

    assert time.monotonic() - start < 300
    assert "no root device" in str(caught.value)
    assert "no root device" in Path(caught.value.look).read_text(errors="replace")


def test_a_boot_that_takes_too_long_says_so(engine: str, settings: Settings, image: Image) -> None:
    """A time-out names the node, the seconds, the log, and the option that gives more time; nothing is left."""
    with pytest.raises(BootTimeout, match=r"pi-1 was not ready after [\d.]+ s") as caught:
        Cluster.up(engine=engine, start="cold", boot_timeout=1.5, settings=settings)

    assert "--pidoc-boot-timeout=3" in str(caught.value)
    assert Path(caught.value.look).exists()
    name = Path(caught.value.look).parent.parent.name
    assert name.startswith("c-")
    assert leftovers(name) == []


TEST_FILE = """
import pytest

@pytest.mark.pidoc(nodes=2)
def test_forever(pi_cluster):
    print("cluster", pi_cluster.name)
    pi_cluster.run("sleep 600")
"""


@pytest.fixture
def suite(engine: str, settings: Settings, image: Image, tmp_path: Path) -> list[str | Path]:
    """The command of a pytest run whose only test starts two nodes and never ends."""
    (tmp_path / "test_forever.py").write_text(TEST_FILE)
    return [
        *(sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"),
        *(f"--pidoc-engine={engine}", f"--pidoc-cache-dir={settings.cache_dir}", f"--basetemp={tmp_path / 'base'}"),
        tmp_path / "test_forever.py",
    ]


def _wait_for(condition, timeout: float):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout} s")


def _cluster_of(owner: subprocess.Popen[bytes]) -> str | None:
    """Return the name of the process's cluster, once its nodes are being started."""
    for directory in records.cluster_directories():
        with contextlib.suppress(PidocError):
            if records.read(directory)["owner"].startswith(f"{owner.pid}:") and any(directory.glob("pi-*/serial.log")):
                return directory.name
    return None


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_pytest_is_ended_during_a_boot(suite: list[str | Path], sent: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM or SIGKILL of pytest while nodes boot: 10 s later nothing of them is left."""
    with (tmp_path / "output").open("wb") as output:
        child = subprocess.Popen(suite, stdout=output, stderr=output, cwd=tmp_path)
        try:
            name = _wait_for(lambda: _cluster_of(child), 120)
            child.send_signal(sent)
            child.wait(timeout=60)
        finally:
            child.kill()
            child.wait()

    _wait_for(lambda: not leftovers(name), REAPED_WITHIN)


def test_the_whole_process_group_is_killed_during_a_test(suite: list[str | Path], tmp_path: Path) -> None:
    """As CI systems do it: SIGKILL for pytest and all that is in its group; 10 s later nothing is left."""
    with (tmp_path / "output").open("wb") as output:
        child = subprocess.Popen(suite, stdout=output, stderr=output, cwd=tmp_path, start_new_session=True)
        try:
            _wait_for(lambda: b"cluster c-" in (tmp_path / "output").read_bytes(), 300)
            name = _cluster_of(child)
            os.killpg(child.pid, signal.SIGKILL)
        finally:
            child.kill()
            child.wait()

    _wait_for(lambda: not leftovers(name), REAPED_WITHIN)
