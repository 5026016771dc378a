"""Steps: what is done, one after the other, to a new cluster before it is saved."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.steps import sources
from pytest_pidoc.steps.files import combined, content_digest, entries, files_digest, path_text, reason
from pytest_pidoc.steps.playbooks import playbook_digest
from pytest_pidoc.values.checks import shown

__all__ = ["Function", "Playbook", "Recorded", "Script", "Step", "digests", "read"]

PLAYBOOKS = (".yml", ".yaml")
TIP = "name a file such as setup.sh or site.yml"


@dataclass(frozen=True, eq=False)
class Step:
    """One step; steps are equal that have the same kind, name and content, wherever they come from.

    Attributes
    ----------
    kind
        ``function``, ``script`` or ``playbook``.
    name
        What users see: ``etcd()``, ``setup.sh``, ``site.yml``.
    """

    kind: str
    name: str

    def digest(self) -> str:
        """Return the digest of what the step does, as its files are now.

        Raises
        ------
        SettingsError
            A file of it cannot be read.
        """
        raise NotImplementedError

    @cached_property
    def content(self) -> str:
        """The digest of what the step did when it was first asked for, which is what it is known by."""
        return self.digest()

    def has_changed(self) -> bool:
        """Tell whether the step's files are others by now, or cannot be read any more."""
        try:
            return self.digest() != self.content
        except SettingsError:
            return True

    def to_json(self) -> dict[str, str]:
        """Return as plain data what the step is known by."""
        return {"kind": self.kind, "name": self.name, "content": self.content}

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Step):
            return NotImplemented
        return (self.kind, self.name) == (other.kind, other.name) and self.content == other.content

    def __hash__(self) -> int:
        return hash((self.kind, self.name))  # without reading a file


@dataclass(frozen=True, eq=False)
class Function(Step):
    """A function of the user's, which is called with the cluster."""

    function: Callable[[Any], object]
    values: str
    """The digest of the constants that it uses, as they were at first: running it can change them."""

    @classmethod
    def of(cls, function: object, *, source: str = "prepare") -> Function:
        """Return the step; see `read` for what it raises."""
        if not sources.require_usable(function, source):
            raise TypeError
        try:
            text, values = sources.function_digests(function)
        except SettingsError as error:
            raise SettingsError(f"{source}: {error.what}", tip=error.tip) from None
        step = cls("function", sources.function_name(function), function, values)
        vars(step)["content"] = combined([text, values])  # its file can change while what Python has read of it stays
        return step

    def digest(self) -> str:
        """Return the digest of its source and of what it uses of its module."""
        return combined([sources.function_digests(self.function)[0], self.values])  # type: ignore[arg-type] # see `of`


@dataclass(frozen=True, eq=False)
class Script(Step):
    """A program that runs as root on each node, such as a shell script."""

    path: Path

    @classmethod
    def of(cls, path: Path) -> Script:
        """Return the step of a script, by its absolute path."""
        return cls("script", path.name, path)

    def digest(self) -> str:
        """Return the digest of its text."""
        return _read(self.path, content_digest)  # not whether it can be executed: it is run in any case


@dataclass(frozen=True, eq=False)
class Playbook(Step):
    """A playbook of Ansible, which is run on the host with the cluster's inventory."""

    path: Path

    @classmethod
    def of(cls, path: Path) -> Playbook:
        """Return the step of a playbook, by its absolute path."""
        return cls("playbook", path.name, path)

    def digest(self) -> str:
        """Return the digest of its text and of the files that it is known to use."""
        return _read(self.path, playbook_digest)


@dataclass(frozen=True, eq=False)
class Recorded(Step):
    """A step that another process did, or this one before; it cannot be done again."""

    recorded: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recorded:
        """Read what `Step.to_json` returned.

        Raises
        ------
        ValueError, TypeError, KeyError
            It is something else.
        """
        step = cls(value["kind"], value["name"], value["content"])
        if not all(isinstance(each, str) for each in (step.kind, step.name, step.recorded)):
            raise ValueError("a step has another value than is ever written")
        return step

    def digest(self) -> str:
        """Return what was written down."""
        return self.recorded


def read(value: object, *, places: Sequence[Path], source: str = "prepare") -> tuple[Step, ...]:
    """Return the steps that a user named.

    Parameters
    ----------
    value
        A function, the path of a script or of a playbook (``.yml``, ``.yaml``), or a list or tuple of these. ``None``,
        an empty text and an empty list are no step.
    places
        The folders in which relative paths are looked for, in this order.
    source
        Who named them, for errors: ``--pidoc-prepare``.

    Raises
    ------
    SettingsError
        That is something else, a file is missing or unreadable, a function cannot be called with a cluster, has no
        source, or closes over a value that can change.
    """
    return tuple(_step(entry, places, source) for entry in entries(value))


def digests(steps: Sequence[Step], files: Sequence[Path] = ()) -> tuple[str, ...]:
    """Return what each step does now, with the content of the files that it is said to use.

    Parameters
    ----------
    steps
        The steps.
    files
        ``prepare_files``: absolute paths of files, folders and patterns.

    Raises
    ------
    SettingsError
        A file cannot be read, or the source of a function is another than that which Python has read.
    """
    for step in steps:
        has_changed = step.has_changed()  # since it was first asked for, which is now at the latest
        if isinstance(step, Function) and has_changed:  # what runs is not what is read
            raise SettingsError(
                f"prepare: the source of {step.name} has changed since Python read it.", tip="run the tests again"
            )
    found = [step.digest() for step in steps]
    mixed_in = files_digest(files) if files else ""
    return tuple(combined([digest, mixed_in]) if files else digest for digest in found)


def _step(entry: object, places: Sequence[Path], source: str) -> Step:
    if not isinstance(entry, (str, os.PathLike)):
        return Function.of(entry, source=source)
    text = path_text(entry)
    if text is None:
        raise SettingsError(f"{source}: {shown(entry)} is not the path of a script or a playbook.", tip=TIP)
    path = _found(text, places, source)
    return (Playbook if path.suffix.lower() in PLAYBOOKS else Script).of(path)


def _found(text: str, places: Sequence[Path], source: str) -> Path:
    """Return the absolute path of a regular file that can be read."""
    problem, tip = "", TIP
    for place in places or [Path.cwd()]:
        try:
            path = Path(os.path.normpath(place / Path(text).expanduser()))
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                with path.open("rb"):
                    return path
            problem = problem or f"{source}: {shown(text)} is {'a directory' if stat.S_ISDIR(mode) else 'no file'}."
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, RuntimeError) as error:  # a name with a null byte, the home of nobody
            problem = problem or f"{source}: {shown(text)} cannot be read: {reason(error)}."
    if not problem:
        folders = " or ".join(dict.fromkeys(map(str, places)))
        is_absolute = Path(text).is_absolute()
        problem = f"{source}: {shown(text)} does not exist{'' if is_absolute else f' in {folders}'}."
        tip = "write a path from one of these folders, or an absolute one" if not is_absolute else tip
    raise SettingsError(problem, tip=tip)


def _read(path: Path, digest: Callable[[Path], str]) -> str:
    try:
        return digest(path)
    except OSError as error:
        name = error.filename or path
        raise SettingsError(
            f"prepare: {shown(str(name))} cannot be read: {reason(error)}.",
            tip="do not change or remove the file while the tests run, and make it readable",
        ) from error
