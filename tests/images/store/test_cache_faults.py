"""Whatever happens while an image or a warm state is made: no part of it is used, and the next build is a good one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cache_faults
import pytest
from support import eventually

from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.qemu import migration
from pytest_pidoc.qemu.overlay import empty_overlay
from pytest_pidoc.values.files import OVERLAY, QMP_SOCKET, RAM, SERIAL_LOG, STATE

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What gives a process a mount table of its own, which goes with it.
NAMESPACE = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory in memory, if there is one: each build waits for the disk several times."""
    memory = Path("/dev/shm")  # mkdtemp makes it this user's
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="pidoc-faults-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def saved() -> Iterator[Path]:
    """Save a machine of 16 MiB: what QEMU writes for a warm state."""
    with tempfile.TemporaryDirectory(prefix="p-") as folder:
        here = Path(folder)
        (here / SERIAL_LOG).write_bytes(b"Linux version 6.1\n")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", here / "disk.qcow2", "64M"], check=True)
        (here / OVERLAY).write_bytes(empty_overlay(here / "disk.qcow2"))
        machine = [
            *("-machine", "virt,memory-backend=ram", "-m", "16M", "-nodefaults", "-display", "none", "-S"),
            *("-object", f"memory-backend-file,id=ram,size=16M,mem-path={RAM},share=on"),
            *("-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"),
        ]
        with subprocess.Popen(["qemu-system-aarch64", *machine], cwd=here, stdin=subprocess.DEVNULL) as process:
            try:
                assert eventually((here / QMP_SOCKET).exists, timeout=30)
                migration.save(here, LocalEngine().qemu_version("qemu-system-aarch64"))
            finally:
                process.kill()
        assert (here / STATE).stat().st_size > 0
        yield here


def run(fault: str, what: str, directory: Path, *saved: Path, prefix: list[str] | None = None) -> int:
    """Run the program that disturbs builds; return how many it has."""
    command = [*(prefix or []), sys.executable, cache_faults.__file__, fault, what, str(directory), *map(str, saved)]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("what", ["image", "rebuild"])
def test_sigkill_at_every_change_of_the_file_system(directory: Path, what: str) -> None:
    """After each, images are whole, the next build succeeds, and no file, lock or process is left of the killed one."""
    assert run("kill", what, directory) > 40


@pytest.mark.parametrize("fault", ["write", "limit"])
def test_death_and_failure_in_the_middle_of_a_write(directory: Path, fault: str) -> None:
    """A file that stops growing at some byte ends the process, or is an error that says what to do."""
    assert run(fault, "image", directory) > 30


@pytest.mark.parametrize("what", ["image", "rebuild"])
@pytest.mark.parametrize(("fault", "least"), [("full", 8), ("inodes", 8)])
def test_a_disk_that_is_full_at_every_point(directory: Path, fault: str, least: int, what: str) -> None:
    """Each is an ImageError that says what to do and leaves nothing; with more room, the same build succeeds."""
    if subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("this user may not mount anything")
    assert run(fault, what, directory, prefix=NAMESPACE) >= least


@pytest.mark.qemu
@pytest.mark.parametrize("fault", ["kill", "write", "limit"])
def test_a_warm_state_that_is_disturbed(directory: Path, saved: Path, fault: str) -> None:
    """A machine that QEMU has saved is kept as a whole or not at all."""
    assert run(fault, "template", directory, saved) > 20


@pytest.mark.qemu
def test_a_warm_state_for_which_there_is_no_room(directory: Path, saved: Path) -> None:
    """The copy fails as an ImageError with what cp has said."""
    if subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("this user may not mount anything")
    assert run("full", "template", directory, saved, prefix=NAMESPACE) > 4
