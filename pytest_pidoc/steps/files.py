"""Digests of files and folders: by their content and by their names in the folder, wherever that is.

No digest changes when a folder is copied to another place, or its files get another time or another owner.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.values.checks import shown

__all__ = [
    "combined",
    "content_digest",
    "entries",
    "file_digest",
    "files_digest",
    "find_files",
    "path_text",
    "reason",
    "tree",
]

BLOCK = 1 << 20  # bytes that are read at a time
LARGE = 1 << 20  # bytes from which on a file is not read again as long as it is the same
LEFT_OUT = frozenset({".git", "__pycache__"})


def combined(pieces: Iterable[str]) -> str:
    """Return one digest of several texts; which text ends where makes a difference."""
    whole = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogateescape")
        whole.update(b"%d:" % len(data) + data)
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file: its content, and whether it can be executed.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if path.is_symlink() and not path.exists():
        return combined(["link", str(path.readlink())])
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        return combined(["no file"])  # a pipe would block
    return combined(["executable" if mode & stat.S_IXUSR else "file", content_digest(path)])


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content; a large file that is still the same is not read again.

    Raises
    ------
    OSError
        It cannot be read.
    """
    status = path.stat()
    known = _large if status.st_size >= LARGE else _content
    return known(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def _content(path: Path, _identity: tuple[int, ...]) -> str:
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            content.update(block)
    return content.hexdigest()


_large = functools.lru_cache(maxsize=1000)(_content)


def tree(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, in a stable order; links are followed, but not in circles.

    Raises
    ------
    OSError
        A folder cannot be read.
    """
    yield from _tree(folder, frozenset())


def _tree(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        return
    for entry in sorted(folder.iterdir()):
        if entry.name in LEFT_OUT:
            continue
        if entry.is_dir():
            yield from _tree(entry, above | {real})
        else:
            yield entry


def files_digest(paths: Sequence[Path]) -> str:
    """Return the digest of files, of folders with all that is in them, and of what patterns such as ``*.deb`` match.

    Parameters
    ----------
    paths
        Absolute paths. Their order makes no difference.

    Raises
    ------
    SettingsError
        There is no such file, or it cannot be read.
    """
    digests = []
    for path in paths:
        try:
            base, found = _matches(path)
            if not found:
                raise SettingsError(
                    f"prepare_files: nothing is found at {shown(str(path))}.",
                    tip="name files, folders, or patterns such as build/*.deb",
                )
            files = sorted({file for each in found for file in ([each] if not each.is_dir() else tree(each))})
            named = [(os.path.relpath(file, base), file_digest(file)) for file in files]
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"prepare_files: {shown(str(path))} cannot be read: {reason(error)}.",
                tip="make all of it readable, or name other files",
            ) from error
        digests.append(combined([part for pair in named for part in pair]))
    return combined(sorted(digests))


def find_files(value: object, places: Sequence[Path], source: str) -> tuple[Path, ...]:
    """Return the absolute paths of files, folders and patterns.

    Parameters
    ----------
    value
        One path or pattern, or a list or tuple of them; ``None``, an empty text and an empty list are none.
    places
        The folders in which relative ones are looked for: the first in which there is something counts.
    source
        Where they came from, for the error.

    Raises
    ------
    SettingsError
        One of them is not there, or is no path.
    """
    tip = "name files, folders, or patterns such as build/*.deb"
    found = []
    for entry in entries(value):
        text = path_text(entry)
        if text is None:
            raise SettingsError(f"{source}: {shown(entry)} is not a path.", tip=tip)
        try:
            candidates = [Path(os.path.normpath(place / Path(text).expanduser())) for place in places]
            there = [path for path in candidates if _matches(path)[1]]
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, the home of nobody
            raise SettingsError(f"{source}: {shown(text)} cannot be read: {reason(error)}.", tip=tip) from error
        if not there:
            folders = "" if Path(text).is_absolute() else f" in {' or '.join(dict.fromkeys(map(str, places)))}"
            raise SettingsError(f"{source}: {shown(text)} matches no file{folders}.", tip=tip)
        found.append(there[0])
    return tuple(found)


def entries(value: object) -> list[object]:
    """Return what a user gave alone, in a list or in a tuple, as a list."""
    if value is None or (isinstance(value, str) and not value):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def path_text(value: object) -> str | None:
    """Return the text of a path; ``None`` if the value is none."""
    if not isinstance(value, (str, os.PathLike)):
        return None
    try:
        text = os.fspath(value)
    except Exception:  # noqa: BLE001 # a class of the user's own
        return None
    if not isinstance(text, str) or not text.strip():
        return None
    return text.strip() if isinstance(value, str) else text


def reason(error: Exception) -> str:
    """Return why a file cannot be used, without its name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _matches(path: Path) -> tuple[Path, list[Path]]:
    """Return what a path or pattern names, and the folder from which names are counted."""
    if path.exists():
        return (path if path.is_dir() else path.parent), [path]
    fixed: list[str] = []
    for part in path.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    if len(fixed) == len(path.parts):
        return path.parent, []
    return Path(*fixed), [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 # of an absolute one
