"""Archives and their parts: tar and cpio files made without root, and the kernel modules that an initrd needs."""

from __future__ import annotations

import io
import re
import stat
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ImageError

__all__ = ["Entry", "cpio", "initrd", "module_closure", "tar"]


_APPLETS = ("insmod", "ip", "mount", "poweroff", "sleep", "switch_root")


@dataclass(frozen=True)
class Entry:
    """A file, directory or link to be put into an archive, owned by root.

    Attributes
    ----------
    path
        Relative, without a leading slash.
    content
        The file's bytes; a symbolic link's target.
    mode
        Type and permissions as in ``st_mode``.
    """

    path: str
    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644


def tar(entries: Iterable[Entry]) -> bytes:
    """Return a tar archive of regular files, all of them root's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.size = len(entry.content)
            info.mode = stat.S_IMODE(entry.mode)
            info.uname = info.gname = "root"
            archive.addfile(info, io.BytesIO(entry.content))
    return buffer.getvalue()


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return a cpio archive in the format that the kernel unpacks as an initramfs (``newc``).

    See Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources.
    """
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", mode=0)], start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        #        inode   mode        uid gid links  mtime size                dev and rdev   name       checksum
        fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def initrd(*, init: bytes, busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    """Return an initrd, not compressed: unpacking it under emulation would cost more than reading it.

    Parameters
    ----------
    init
        The script that is its first process.
    busybox
        A static busybox of the guest's architecture.
    modules
        Kernel modules by file name, in the order in which they are to be loaded.
    """
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    return cpio(
        [
            *(Entry(path, mode=directory) for path in ("bin", "dev", "modules", "proc", "root", "sys")),
            Entry("bin/busybox", busybox, program),
            *(Entry(f"bin/{name}", b"busybox", stat.S_IFLNK | 0o777) for name in _APPLETS),
            Entry("init", init, program),
            Entry("modules/order", "".join(f"{name}\n" for name in modules).encode()),
            *(Entry(f"modules/{name}", content) for name, content in modules.items()),
        ]
    )


def module_closure(directory: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Return the wanted kernel modules and those that they need, each after what it needs, by file name.

    Parameters
    ----------
    directory
        ``lib/modules/VERSION`` of an unpacked kernel package.
    wanted
        Names of modules; those that are built into the kernel are left out.

    Raises
    ------
    ImageError
        The kernel has no such module.
    """
    files = {_module_name(path.name): path for path in directory.rglob("*.ko")}
    builtin = {_module_name(line) for line in (directory / "modules.builtin").read_text("ascii").split()}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in builtin or f"{name}.ko" in found:
            return
        if name not in files:
            raise ImageError(f"The kernel {directory.name} has no module {name}, which the initrd needs.")
        content = files[name].read_bytes()
        for needed in _needed(content):
            add(needed)
        found[f"{name}.ko"] = _unsigned(content)

    for name in wanted:
        add(_module_name(name))
    return found


def _module_name(path: str) -> str:
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def _unsigned(module: bytes) -> bytes:
    """Return a module without its signature, which the kernel would take longer to verify than the module to load.

    The signature ends the file: its data, ``struct module_signature`` with the data's length, and a marker.
    See scripts/sign-file.c in the kernel's sources.
    """
    marker = b"~Module signature appended~\n"
    if not module.endswith(marker):
        return module
    end = len(module) - len(marker)
    (length,) = struct.unpack(">I", module[end - 4 : end])
    return module[: end - 12 - length]


def _needed(module: bytes) -> Iterator[str]:
    """Yield the names in a module's ``depends=`` entry of its ``.modinfo`` section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    for name in (found[1].decode("ascii") if found else "").split(","):
        if name:
            yield _module_name(name)
