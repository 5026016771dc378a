"""The FAT partition of a disk image: files read and written by mtools, without a mount and without root."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.stock.partitions import Partition
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.tools import search_path
from pytest_pidoc.values.checks import listed

__all__ = ["TOOLS", "Fat"]

#: Programs that this module runs, and the Debian packages that have them.
TOOLS = {"mcopy": "mtools", "mdir": "mtools", "prlimit": "util-linux"}

TIMEOUT = 120.0  # seconds
LARGEST = 256 * 1024**2  # bytes of a file: a forged directory can claim gigabytes for many files
LARGEST_TEXT = 1 << 20
# mtools read "*" as a wildcard and "/" as a directory, and a forged disk can have names with both.
_NAME = re.compile(r"[^\W_][^/\\*?\[\]\x00-\x1f]*")
_ENVIRONMENT = {"MTOOLS_SKIP_CHECK": "1"}  # some images have wrong cylinders and heads, which nothing uses today


@dataclass(frozen=True)
class Fat:
    """The file system in a FAT partition.

    Attributes
    ----------
    disk
        The disk image.
    partition
        Where in it.
    log
        Gets what the programs print.
    """

    disk: Path
    partition: Partition
    log: BuildLog

    def names(self) -> list[str]:
        """Return the names of the files in its root directory, without those that mtools would misread.

        Raises
        ------
        ImageError
            It is not a FAT file system.
        """
        said = self._output(["mdir", "-b", "-i", self._image, "::/"], "listing the boot partition")
        names = [line.removeprefix("::/").rstrip() for line in said.split("\n") if line.startswith("::/")]
        return [name for name in names if _NAME.fullmatch(name)]

    def has(self, name: str) -> bool:
        """Tell whether the partition contains a file of that name; FAT ignores case."""
        return name.lower() in (each.lower() for each in self.names())

    def text(self, name: str, work: Path) -> str:
        """Return a text file's content, empty if it does not exist; *work* is a directory for a temporary copy."""
        if not self.has(name):
            return ""
        copy = work / "text"
        self.copy_out(name, copy)
        try:
            if copy.stat().st_size > LARGEST_TEXT:
                raise ImageError(
                    f"{name} in the boot partition has {copy.stat().st_size} bytes, above the limit of {LARGEST_TEXT}."
                )
            return copy.read_bytes().decode("utf-8", "replace")
        finally:
            copy.unlink()

    def copy_out(self, name: str, target: Path) -> None:
        """Copy a file out of it.

        Raises
        ------
        ImageError
            The file does not exist, is too large, or cannot be read.
        """
        if not self.has(name):
            raise ImageError(
                f"The boot partition does not contain {name}; it contains {listed(self.names()) or 'no files'}."
            )
        limited = ["prlimit", f"--fsize={LARGEST}"]
        self._output([*limited, "mcopy", "-n", "-i", self._image, f"::/{name}", target], f"reading {name}")

    def copy_in(self, source: Path, name: str) -> None:
        """Copy a file into it, replacing one of the same name.

        Raises
        ------
        ImageError
            The partition is full, or cannot be written.
        """
        self._output(["mcopy", "-o", "-i", self._image, source, f"::/{name}"], f"writing {name}")

    @property
    def _image(self) -> str:
        return f"{self.disk.name}@@{self.partition.start}"  # relative, since "@@" might be in the path

    def _output(self, command: list[str | Path], what: str) -> str:
        return self.log.output(
            command,
            what=what,
            timeout=TIMEOUT,
            directory=self.disk.parent,
            environment={"PATH": search_path(), **_ENVIRONMENT},
        )
