"""Builds images of a real cache again and again, each time with another thing going wrong; run as a program.

``python cache_faults.py FAULT WHAT DIRECTORY [SAVED]`` prints how many builds were disturbed. It ends with a
traceback at the first of them after which something is wrong: a partial image was found, the next build fails,
or a file or a process is left. A program of its own, since an audit hook stays, and a limit holds for all threads.

FAULT is one of

``kill``
    SIGKILL before the n-th thing that Python does to the file system, for every n.
``write``
    SIGXFSZ in the middle of a write, when a file gets longer than n bytes (RLIMIT_FSIZE).
``limit``
    The same limit as an error: EFBIG.
``full``
    A disk with n pages (a tmpfs, so root or a user namespace is needed): ENOSPC.
``inodes``
    A disk with room for n files.

WHAT is ``image``, ``rebuild`` (one is there already) or ``template`` (of the machine that was saved in SAVED).
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache, Maker, image_file
from pytest_pidoc.images.store.image import Manifest
from pytest_pidoc.lifecycle import saving

KEY, OTHER = "ab" * 32, "cd" * 32
REFUSED, CRASHED = 3, 4  # statuses of a build: an ImageError, or something else
PAGE = 4096

CHANGES = {
    *("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.truncate", "os.utime"),
    *("shutil.rmtree", "subprocess.Popen", "fcntl.flock"),
}


@dataclass(frozen=True)
class Sweep:
    """One way of building, and where."""

    root: Path
    make: Maker
    rebuild: bool

    def build(self) -> None:
        cache = Cache(self.root)
        cache.verify(cache.build(KEY, self.make, what="an image", rebuild=self.rebuild))

    def prepare(self) -> None:
        """Put what is there before into the cache: always another image, and for a rebuild the image itself."""
        Cache(self.root).build(OTHER, make_image, what="another image")
        if self.rebuild:
            Cache(self.root).build(KEY, self.make, what="an image")

    def disturbed(self, disturb: Callable[[], None]) -> int:
        """Build in a child of this process; return how that ended, as ``waitpid`` gives it."""
        child = os.fork()
        if child == 0:
            try:
                disturb()
                self.build()
            except ImageError as error:
                os._exit(REFUSED if error.tip or error.look else CRASHED)
            except BaseException:  # noqa: BLE001 # a child that must not go on as its parent
                traceback.print_exc()
                os._exit(CRASHED)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != CRASHED, "a build ended with another error than an ImageError that says what to do"
        return status

    def check(self, expected: set[str]) -> None:
        """Check that what is there is whole, that the next build works, and that then nothing is left over."""
        cache = Cache(self.root)
        for image in cache.images():
            cache.verify(image)
        assert cache.unreadable() == []
        cache.find(KEY)
        cache.find(OTHER)
        self.build()
        assert tree(self.root) == expected, sorted(tree(self.root) ^ expected)
        assert_no_commands(self.root)


def main(fault: str, what: str, directory: Path, saved: Path | None) -> int:
    """Disturb builds until one is not disturbed any more; return how many were."""
    make = make_image if saved is None else template_of(saved)
    sweep = Sweep(directory / "cache", make, what == "rebuild")
    reference = Sweep(directory / "reference", make, what == "rebuild")
    reference.prepare()
    reference.build()  # imports what there is to import, too
    expected = tree(reference.root)
    step = PAGE if saved is None else 16 * PAGE
    largest = max(path.stat().st_size for path in reference.root.rglob("*"))
    disturbed = {
        "kill": lambda: kills(sweep, expected),
        "write": lambda: limits(sweep, expected, largest, signal.SIG_DFL),
        "limit": lambda: limits(sweep, expected, largest, signal.SIG_IGN),
        "full": lambda: small_disks(sweep, expected, lambda number: f"size={number * step}"),
        "inodes": lambda: small_disks(sweep, expected, lambda number: f"nr_inodes={number + 1}"),
    }
    return disturbed[fault]()


def kills(sweep: Sweep, expected: set[str]) -> int:
    """Kill builds by SIGKILL at the first change of the file system, at the second, ... until one comes through."""
    sweep.prepare()
    for number in itertools.count(1):
        status = sweep.disturbed(lambda number=number: kill_at(number))  # type: ignore[misc]
        if status == 0:
            return number - 1
        assert status == -signal.SIGKILL
        sweep.check(expected)
        if not sweep.rebuild:
            Cache(sweep.root).remove(sweep.root / "images" / KEY)
    raise AssertionError


def kill_at(number: int) -> None:
    remaining = itertools.count(number - 1, -1)

    def hook(event: str, arguments: object) -> None:
        if event in CHANGES and next(remaining) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def limits(sweep: Sweep, expected: set[str], largest: int, disposition: signal.Handlers) -> int:
    """Let no file get longer than so many bytes; with the default disposition, whoever writes more dies of it."""
    sweep.prepare()
    disturbed = 0
    for limit in (*range(8), *range(8, largest, max(1, largest // 30)), largest - 1):

        def disturb(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, disposition)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        status = sweep.disturbed(disturb)
        assert status in (0, REFUSED, -signal.SIGXFSZ), status
        if status == REFUSED:
            assert not Cache(sweep.root).leftovers(), "a build that failed leaves nothing"
        disturbed += status != 0
        sweep.check(expected)
        if not sweep.rebuild:
            Cache(sweep.root).remove(sweep.root / "images" / KEY)
    return disturbed


def small_disks(sweep: Sweep, expected: set[str], option: Callable[[int], str]) -> int:
    """Build on disks that are too small, each a little larger; then make room, and build again."""
    for number in itertools.count(1):
        mount = sweep.root.parent / "disk"
        mount.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{option(number)},mode=0700", "none", mount], check=True)
        try:
            here = Sweep(mount / "cache", sweep.make, sweep.rebuild)
            status = here.disturbed(lambda: None)
            assert status in (0, REFUSED), status
            if status == REFUSED:
                assert not Cache(here.root).leftovers(), "a build that failed leaves nothing"
                assert Cache(here.root).images() == []
            subprocess.run(["mount", "-o", "remount,size=1G,nr_inodes=10000", mount], check=True)
            here.prepare()
            here.check(expected)
        finally:
            subprocess.run(["umount", "--lazy", mount], check=True)
        if status == 0:
            return number - 1
    raise AssertionError


def make_image(directory: Path, log: BuildLog) -> Manifest:
    """Make a small but real image, by what real recipes do: writes, commands, links."""
    (directory / "work").mkdir()
    with (directory / "disk").open("wb", buffering=0) as disk:
        for number in range(8):
            disk.write(bytes([number]) * 3000)
    log.run(
        ["sh", "-c", 'head -c 20000 /dev/zero > "$1"/work/kernel', "sh", directory], what="making a kernel", timeout=60
    )
    os.link(directory / "work" / "kernel", directory / "kernel")
    (directory / "work" / "kernel").unlink()
    (directory / "work").rmdir()
    (directory / "id").write_bytes(b"secret")
    return manifest(directory, "disk", "kernel", private_key="id")


def template_of(saved: Path) -> Maker:
    """Return what keeps a machine that QEMU has saved, as a warm start does."""

    def make(directory: Path, log: BuildLog) -> Manifest:
        saving.collect(saved, directory, log)
        return manifest(directory, *saving.PARTS)

    return make


def manifest(directory: Path, *names: str, **others: str) -> Manifest:
    roles = {**{name: name for name in names}, **others}
    files = {role: image_file(directory / name) for role, name in roles.items()}
    return Manifest("debian:bookworm", "arm64", key="", files=files, user="pi", host_keys=())


def tree(root: Path) -> set[str]:
    """Return the names of all that is there but lock files and who last held them, which stay for good."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.suffix not in (".lock", ".holder", ".use")}


def assert_no_commands(root: Path) -> None:
    """Check that no process goes on with what its killed builder had begun: it gets a moment to end."""
    end = time.monotonic() + 10
    while found := list(commands(str(root))):
        assert time.monotonic() < end, found
        time.sleep(0.01)


def commands(name: str) -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:  # gone
            continue
        if path.parent.name != str(os.getpid()) and any(word.startswith(name) for word in words):
            yield " ".join(words)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]) if sys.argv[4:] else None))
