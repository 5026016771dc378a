"""An ext4 file system in a file of its own: read, enlarged and written by e2fsprogs, without mount and root."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.tools import search_path

__all__ = ["TOOLS", "Ext4", "is_ext4"]

#: Programs that this module runs, and the Debian packages that have them.
TOOLS = {"debugfs": "e2fsprogs", "e2fsck": "e2fsprogs", "resize2fs": "e2fsprogs"}

LARGEST = 64 * 1024**2  # bytes of a file that is read: a file with holes can claim any size
TIMEOUT = 900.0  # seconds, for each operation on a file system of some gigabytes
_CORRECTED = (0, 1)  # exit statuses of e2fsck: no errors, and errors corrected


def is_ext4(disk: Path, offset: int = 0) -> bool:
    """Tell whether there is an ext2, ext3 or ext4 file system at a byte of a file: by its magic number."""
    with disk.open("rb") as stream:
        stream.seek(offset + 1024 + 56)
        return stream.read(2) == b"\x53\xef"


@dataclass(frozen=True)
class Ext4:
    """A file system that fills a file, or begins at a byte of it and then can only be read.

    Attributes
    ----------
    path
        The file; the programs work in its directory.
    log
        Gets what the programs print.
    offset
        The byte.
    """

    path: Path
    log: BuildLog
    offset: int = 0

    def exists(self, name: str) -> bool:
        """Tell whether a file, directory or link has that absolute name; links are not followed."""
        return "Inode:" in self._debugfs(f"stat {name}", f"looking for {name}")

    def read(self, name: str) -> bytes | None:
        """Return the content of the regular file of that absolute name; ``None`` if it does not exist or is huge."""
        said = self._debugfs(f"stat {name}", f"looking for {name}")
        size = re.search(r"Type: regular .*?\bSize: (\d+)", said, re.DOTALL)
        if size is None or int(size[1]) > LARGEST:
            return None
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            copy = Path(folder, "copy")
            self._debugfs(f"dump {name} {copy.relative_to(self.path.parent)}", f"reading {name}")
            return copy.read_bytes() if copy.exists() and copy.stat().st_size else None

    def copy_out(self, name: str, target: Path) -> None:
        """Copy the directory of that absolute name into the directory *target*.

        Raises
        ------
        ImageError
            The file system does not contain it.
        """
        self._debugfs(f"rdump {name} {os.path.relpath(target, self.path.parent)}", f"reading {name}")
        if not (target / Path(name).name).is_dir():
            raise self.log.error(f"The file system does not contain the directory {name}.")

    def copy_in(self, source: Path, parent: str) -> None:
        """Copy the directory *source* into the directory of that absolute name, owned by root.

        Raises
        ------
        ImageError
            The directory does not exist, or the file system is full.
        """
        script = self.path.with_suffix(".debugfs")
        script.write_text("".join(f"{line}\n" for line in self._script(source, parent)), encoding="utf-8")
        said = self.log.output(
            ["debugfs", "-w", "-f", script.name, self.path.name],
            what=f"writing {parent}/{source.name}",
            timeout=TIMEOUT,
            directory=self.path.parent,
            environment={"PATH": search_path()},
        )
        script.unlink()
        # debugfs exits with status 0 even if it fails. It prints each command, and after it what went wrong.
        wrong = [line for line in said.splitlines() if ": " in line and not line.startswith(("debugfs", "Allocated"))]
        if wrong:
            raise self.log.error(f"Writing {parent}/{source.name} failed: {wrong[0]}")

    def _script(self, source: Path, parent: str) -> Iterator[str]:
        for path in [source, *sorted(source.rglob("*"))]:
            name = f"{parent}/{path.relative_to(source.parent)}"
            kind = path.lstat().st_mode
            if path.is_symlink():
                yield f"cd {Path(name).parent}"
                yield f"symlink {path.name} {path.readlink()}"
            elif stat.S_ISDIR(kind):
                yield f"mkdir {name}"
            else:
                yield f"cd {Path(name).parent}"
                yield f"write {os.path.relpath(path, self.path.parent)} {path.name}"
            for field in ("uid", "gid"):
                yield f"set_inode_field {name} {field} 0"

    def grow(self, size: int) -> None:
        """Enlarge the file and the file system in it to *size* bytes.

        Raises
        ------
        ImageError
            It is damaged, or the disk is full.
        OSError
            The disk is full.
        """
        self._run(["e2fsck", "-f", "-p", self.path.name], "checking the root file system", accepted=_CORRECTED)
        with self.path.open("r+b") as stream:
            stream.truncate(size)
        self._run(["resize2fs", self.path.name], "growing the root file system")

    def _run(self, command: list[str], what: str, **arguments: object) -> None:
        self.log.run(
            command,
            what=what,
            timeout=TIMEOUT,
            directory=self.path.parent,
            environment={"PATH": search_path()},
            **arguments,  # type: ignore[arg-type]
        )

    def _debugfs(self, request: str, what: str) -> str:
        return self.log.output(
            ["debugfs", "-R", request, f"{self.path.name}?offset={self.offset}" if self.offset else self.path.name],
            what=what,
            timeout=TIMEOUT,
            directory=self.path.parent,
            environment={"PATH": search_path()},
        )
