"""A control group for the QEMU of each node that limits its share of the processors: cgroup v1 or v2.

The group's path is recorded in the node's directory before the group is made, so that any process can remove it.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/scheduler/sched-bwc.html
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.host import documents
from pytest_pidoc.values.deadline import Deadline

__all__ = ["CgroupError", "cpus", "limit", "remove"]

RECORD = "cgroup"  # the file of the node's directory with the path of its group
PREFIX = "pidoc"
#: Takes the processes of a delegated group: in v2 a group that limits others cannot have processes itself.
OWNERS = f"{PREFIX}-owners"
SWEEPS = 10  # over processes that might fork meanwhile
LEAVING = 5.0  # seconds until processes that have ended must have left their group
PERIOD = 100_000  # microseconds, the kernel's default


class CgroupError(Exception):
    """The user cannot make a group that limits processors, or the kernel rejects a value."""


@dataclass(frozen=True)
class _Place:
    """A directory in which groups can be made, and which version of the interface it has."""

    directory: Path
    version: int


def limit(directory: Path, name: str, pid: int, share: float | None, *, proc: Path = Path("/proc")) -> None:
    """Let a process use no more than *share* of the host's processors from now on; ``None`` lifts the limit.

    Parameters
    ----------
    directory
        The node's directory.
    name
        Part of the group's name: the cluster's name and the node's.
    pid
        The process, which is moved into the group with all its threads.
    share
        1 is one processor.
    proc
        The proc file system.

    Raises
    ------
    CgroupError
        This user cannot make such a group.
    """
    group = _recorded(directory)
    if group is None and share is None:
        return
    try:
        if group is None:
            group = _make(directory, name, proc)
        for file, value in _files(group, share).items():
            (group / file).write_text(value, encoding="ascii")
        (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError as error:
        raise CgroupError(f"{error.filename or group}: {error.strerror}") from error


def cpus(directory: Path) -> float | None:
    """Return the share to which the node in *directory* is limited, or ``None`` without a limit."""
    group = _recorded(directory)
    if group is None:
        return None
    try:
        if _is_v2(group):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{each}_us").read_text(encoding="ascii") for each in ("quota", "period"))
    except FileNotFoundError:
        return None
    return None if quota.strip() in {"max", "-1"} else int(quota) / int(period)


def remove(directory: Path) -> None:
    """Remove the group of the node in *directory*, whose processes have ended; without a group do nothing."""
    group = _recorded(directory)
    if group is None:
        return
    deadline = Deadline(LEAVING)
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            break
        except OSError as error:
            # A process that was reported as ended stays in its group until the kernel has switched away from it.
            if error.errno != errno.EBUSY or deadline.expired:
                raise
            deadline.pause()
        else:
            break
    (directory / RECORD).unlink(missing_ok=True)


def _recorded(directory: Path) -> Path | None:
    try:
        group = Path(documents.content(directory / RECORD).decode("utf-8"))
    except (OSError, ValueError):  # missing or damaged
        return None
    return group if group.name.startswith(f"{PREFIX}-") and "\0" not in str(group) else None


def _make(directory: Path, name: str, proc: Path) -> Path:
    """Make a group at the first place where that works, and write down where it is."""
    refusals = []
    for place in _places(proc):
        group = place.directory / f"{PREFIX}-{name}"
        try:
            if place.version == 2:
                _delegate(place.directory)
            (directory / RECORD).write_text(str(group), encoding="utf-8")
            group.mkdir(exist_ok=True)
        except OSError as error:
            (directory / RECORD).unlink(missing_ok=True)
            refusals.append(f"{error.filename or place.directory}: {error.strerror}")
        else:
            return group
    raise CgroupError("; ".join(refusals) or "the kernel has no cpu controller")


def _places(proc: Path) -> list[_Place]:
    """Return where groups can be made: below the own group, or at the root of the hierarchy if this user is root."""
    mounts = {}
    for line in (proc / "self/mountinfo").read_text(encoding="utf-8").splitlines():
        where, _, what = line.partition(" - ")  # proc_pid_mountinfo(5)
        kind, options = what.split()[0], what.split()[-1]
        if kind == "cgroup" and "cpu" in options.split(","):
            mounts[1] = Path(where.split()[4])
        elif kind == "cgroup2":
            mounts[2] = Path(where.split()[4])
    own = {}
    for line in (proc / "self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own[2] = path
        elif "cpu" in controllers.split(","):
            own[1] = path
    if 1 in mounts:  # the controller is in one hierarchy only
        root = mounts[1]
        inside = root / own.get(1, "/").lstrip("/")
        return [_Place(inside, 1), *([_Place(root, 1)] if inside != root else [])]
    if 2 in mounts:
        root = mounts[2]
        inside = root / own.get(2, "/").lstrip("/")
        if inside.name == OWNERS:
            inside = inside.parent
        return [_Place(root, 2), *([_Place(inside, 2)] if inside != root else [])]
    return []


def _delegate(group: Path) -> None:
    """Allow the groups in *group* to limit processors; its own processes are moved out first."""
    control = group / "cgroup.subtree_control"
    if "cpu" not in (group / "cgroup.controllers").read_text(encoding="ascii").split():
        raise OSError(errno.ENOTSUP, "the controller cpu is not delegated to it", str(group))
    if (group / "cgroup.type").exists():  # the root group lacks this file, and can have processes
        for _ in range(SWEEPS):
            if not (pids := (group / "cgroup.procs").read_text(encoding="ascii").split()):
                break
            (group / OWNERS).mkdir(exist_ok=True)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (group / OWNERS / "cgroup.procs").write_text(pid, encoding="ascii")
    if "cpu" not in control.read_text(encoding="ascii").split():
        control.write_text("+cpu", encoding="ascii")


def _is_v2(group: Path) -> bool:
    return (group.parent / "cgroup.subtree_control").exists()


def _files(group: Path, share: float | None) -> dict[str, str]:
    """Return the files of the group to write, and their new content."""
    quota = None if share is None else round(share * PERIOD)
    if _is_v2(group):
        return {"cpu.max": f"{'max' if quota is None else quota} {PERIOD}"}
    return {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(-1 if quota is None else quota)}
