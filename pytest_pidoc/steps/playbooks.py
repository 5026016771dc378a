"""The digest of an Ansible playbook: its text, and all files that it can be known to use.

These are the folders that Ansible looks into beside a playbook, and what the text names: there is no parser of YAML
here, so every word of it counts that is the path of a file. What a variable names is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pytest_pidoc.steps.files import combined, file_digest, tree

__all__ = ["playbook_digest", "playbook_files"]

#: Beside a playbook, with all that is in them.
FOLDERS = (
    *("roles", "group_vars", "host_vars", "files", "templates", "tasks", "handlers", "vars", "defaults", "meta"),
    *("library", "module_utils", "action_plugins", "callback_plugins", "filter_plugins", "lookup_plugins"),
)
FILES = ("ansible.cfg", "requirements.yml")
#: Where a relative path can lead from, in the folder of the file that has it and in that of the playbook.
WITHIN = ("", "files", "templates", "tasks", "vars")
YAML = (".yml", ".yaml")
LONGEST = 1 << 20  # bytes of a file that can name others

_PLAYBOOK_DIR = re.compile(r"\{\{\s*playbook_dir\s*\}\}/*")
_QUOTED = re.compile(r"\"([^\"\n]+)\"|'([^'\n]+)'")
_UNQUOTED = re.compile(r"(?:^|[\s:=])[-:=]\s+([^\s#\"'][^\n]*?)\s*$", re.MULTILINE)
_WORD = re.compile(r"[^\s\"'=,;:()\[\]{}|<>]+")
#: What can be copied as a folder.
_SOURCE = re.compile(r"\bsrc\s*[:=]\s*[\"']?([^\s\"']+)")


def playbook_digest(playbook: Path) -> str:
    """Return the digest of a playbook and of what it uses.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    return combined(part for name, path in playbook_files(playbook).items() for part in (name, file_digest(path)))


def playbook_files(playbook: Path) -> dict[str, Path]:
    """Return all files that a playbook can be known to use, itself included, by their paths from its folder.

    Raises
    ------
    OSError
        A folder or a file cannot be read.
    """
    folder = playbook.parent
    todo = [playbook, *(folder / name for name in FILES if (folder / name).is_file())]
    for name in FOLDERS:
        if (folder / name).is_dir():
            todo += tree(folder / name)
    found: dict[str, Path] = {}
    while todo:
        path = Path(os.path.normpath(todo.pop()))
        name = os.path.relpath(path, folder)
        if name not in found:
            found[name] = path
            if path.suffix in YAML and path.is_file():
                todo += _named_in(path, folder)
    return dict(sorted(found.items()))


def _named_in(path: Path, playbook_folder: Path) -> Iterator[Path]:
    """Yield the files that a file of YAML names."""
    with path.open("rb") as stream:
        text = _PLAYBOOK_DIR.sub("", stream.read(LONGEST).decode("utf-8", "replace"))
    quoted = (first or second for first, second in _QUOTED.findall(text))
    folders = {*_SOURCE.findall(text)}
    bases = dict.fromkeys(base / inner for base in (path.parent, playbook_folder) for inner in WITHIN)
    bases = {base: None for base in bases if base.is_dir()}
    for token in dict.fromkeys([*_WORD.findall(text), *quoted, *_UNQUOTED.findall(text), *folders]):
        if token.startswith(("/", "~")) or not token.strip("./") or "\0" in token or len(token) > 1000:
            continue
        for base in bases:
            named = base / token
            try:
                if named.is_file():
                    yield named
                elif (token in folders or "/" in token) and named.is_dir() and not _is_around(named, playbook_folder):
                    yield from tree(named)
            except OSError:  # too long for a name
                continue


def _is_around(folder: Path, other: Path) -> bool:
    """Tell whether a folder is the other one, or one above it."""
    return other.resolve().is_relative_to(folder.resolve())
