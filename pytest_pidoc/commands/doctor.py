"""What the host has, what it lacks, and how to install it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.engines.choose import INSTALL_QEMU
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import ChecksumMismatch, EngineUnavailable, PidocError
from pytest_pidoc.host import documents, records
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.fetch import download
from pytest_pidoc.images.stock import recipe as raspios
from pytest_pidoc.images.store.cache import FREE_SPACE, Cache, repair
from pytest_pidoc.images.store.tools import search_path
from pytest_pidoc.qemu import guard, speed
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress

__all__ = ["Check", "examine", "has_tool", "install", "missing_packages", "verify"]

ROOM = 4 * 1024**3  # bytes of disk space that building an image takes in the cache directory, at its peak

#: Programs that a node or ``pidoc ssh`` runs on this host, and the Debian packages that have them.
RUN_TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-img": "qemu-utils",
    "ssh": "openssh-client",
}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name
        What was checked.
    ok
        Whether pytest-pidoc can use it.
    found
        What was found.
    remedy
        What to do if it is not ok.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


def examine(settings: Settings) -> list[Check]:
    """Check everything that pytest-pidoc needs; a check that is not ok does not matter to every user."""
    checks: tuple[Callable[[Settings], Check], ...] = (
        _local,
        _docker,
        _isolation,
        _build_tools,
        _raspios_tools,
        _speed,
        _memory,
        _cache,
        _runtime,
    )
    return [check(settings) for check in checks]


def verify(settings: Settings, progress: Progress) -> list[Check]:
    """Hash everything in the cache; a check that is not ok has the command that repairs it.

    Raises
    ------
    ImageError
        The cache belongs to another user.
    """
    cache = Cache(settings.cache_dir)
    checks = []
    for image in cache.images():
        progress.step(f"hashing {image}")
        try:
            cache.verify(image)
        except ChecksumMismatch as error:
            checks.append(Check("image", False, error.what, repair(image)))
        else:
            checks.append(Check("image", True, str(image)))
    for path in cache.unreadable():
        checks.append(Check("image", False, f"{path} has no readable manifest", f"rm -r {_quoted(path)}"))
    for path in download.kept(settings.cache_dir / "downloads"):
        if path.suffix:  # an incomplete download
            continue
        progress.step(f"hashing {path}")
        try:
            whole = download.is_whole(path, thorough=True)
            found = str(path) if whole else f"{path} does not match the SHA-256 in its name"
        except OSError as error:
            whole, found = False, f"cannot read {path}: {error.strerror}"
        checks.append(Check("download", whole, found, "" if whole else f"rm {_quoted(path)}"))
    return checks


def missing_packages(*, docker: bool) -> list[str]:
    """Return the Debian packages that have to be installed before an image can be built and nodes be run."""
    tools = {**debian.TOOLS, **({} if docker else RUN_TOOLS)}
    return sorted({package for tool, package in tools.items() if not has_tool(tool)})


def has_tool(tool: str) -> bool:
    """Tell whether a program is installed, including the places where only root looks for programs."""
    return shutil.which(tool, path=search_path()) is not None


def install(packages: list[str], log: Path) -> None:
    """Install Debian packages, if the host runs Debian or a derivative and this user is root.

    Raises
    ------
    PidocError
        This user cannot install them, or apt-get failed; the message has the command to run.
    """
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PidocError(
            f"The host lacks these Debian packages: {', '.join(packages)}.",
            tip=f"run sudo {' '.join(command)}" if shutil.which("apt-get") else "install them from your distribution",
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("wb") as stream:
        for step in (["apt-get", "update"], command):
            done = subprocess.run(
                step, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, check=False
            )
            if done.returncode:
                raise PidocError(f"{' '.join(step)} failed.", evidence=documents.tail(log), look=str(log))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _local(settings: Settings) -> Check:
    try:
        version = LocalEngine().qemu_version("qemu-system-aarch64")
        if not shutil.which("qemu-img"):
            raise EngineUnavailable("qemu-img is not installed.", tip=INSTALL_QEMU)
    except EngineUnavailable as error:
        return Check("engine local", False, error.what, error.tip)
    return Check("engine local", True, str(version))


def _docker(settings: Settings) -> Check:
    from pytest_pidoc.containers import daemon

    try:
        with contextlib.closing(daemon.connect()) as client:
            return Check("engine docker", True, f"Docker {client.version()['Version']}")
    except EngineUnavailable as error:
        return Check("engine docker", False, error.what, error.tip)


def _isolation(settings: Settings) -> Check:
    name = "host isolation"
    if reason := guard.why_open():
        return Check(
            name,
            False,
            f"off: {reason}; guests can reach 127.0.0.1 of this host",
            "use --pidoc-internet=no, unless you trust what you run on nodes",
        )
    return Check(name, True, "guests cannot reach 127.0.0.1 of this host, or a cloud's metadata")


def _build_tools(settings: Settings) -> Check:
    return _tools("building images", debian.TOOLS, "or pull an image")


def _raspios_tools(settings: Settings) -> Check:
    return _tools("Raspberry Pi OS", raspios.TOOLS, "if you want to use such an image")


def _tools(name: str, tools: Mapping[str, str], otherwise: str) -> Check:
    missing = sorted({package for tool, package in tools.items() if not has_tool(tool)})
    if missing:
        return Check(
            name, False, f"not installed: {', '.join(missing)}", f"apt-get install {' '.join(missing)}, {otherwise}"
        )
    return Check(name, True, ", ".join(sorted(tools)))


def _speed(settings: Settings) -> Check:
    try:
        seconds = speed.probe(LocalEngine())
    except EngineUnavailable as error:
        return Check("speed", False, error.what, error.tip)
    ratio = speed.PROBE_REFERENCE / seconds
    slow = "" if ratio > 0.25 else "expect slow boots, or use a faster host"
    return Check("speed", ratio > 0.25, f"{ratio:.2f} times the reference host's emulation", slow)


def _memory(settings: Settings) -> Check:
    fields = dict(_meminfo())
    available = fields.get("MemAvailable", 0)
    nodes = available // (640 * 1024**2)
    return Check(
        "memory",
        nodes >= 1,
        f"{available / 1024**3:.1f} GiB available: {nodes} nodes of pi3-virt",
        "free some memory, or start smaller nodes with --pidoc-memory" if nodes < 1 else "",
    )


def _meminfo() -> Iterator[tuple[str, int]]:
    """Yield names and bytes of ``/proc/meminfo``, whose numbers are in KiB."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        yield name, int(rest.split()[0]) * 1024


def _cache(settings: Settings) -> Check:
    directory = settings.cache_dir
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check(
            "cache",
            False,
            f"{directory} is not writable",
            "choose another directory with --pidoc-cache-dir DIR or PIDOC_CACHE_DIR",
        )
    free = shutil.disk_usage(existing).free
    found = f"{directory}, {free / 1024**3:.1f} GiB free"
    if free < ROOM:
        return Check("cache", False, f"{found}; building an image takes {ROOM / 1024**3:.0f} GiB", FREE_SPACE)
    return Check("cache", True, found)


def _runtime(settings: Settings) -> Check:
    try:
        return Check("clusters", True, f"{records.root()}, {len(list(records.cluster_directories()))} recorded")
    except PidocError as error:
        return Check("clusters", False, error.what, error.tip)
