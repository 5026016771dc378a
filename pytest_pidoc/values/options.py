"""Options: what one is, and which value of it counts: that of the command line, the environment or the ini file."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.values.checks import shown

__all__ = ["Chosen", "Option", "choose"]


class Option(NamedTuple):
    """One setting: ``--pidoc-NAME`` on the command line, ``pidoc_NAME`` in an ini file, ``PIDOC_NAME`` around.

    Attributes
    ----------
    name
        The field of `Settings`.
    parse
        Turns a value into the field's type; its ``ValueError`` says what would be right.
    help
        For ``pytest --help`` and the reference.
    metavar
        The value's name in the help; empty for a flag.
    applies
        To the ``guest`` that nodes boot and to the ``nodes``, which are what a marker and ``Cluster.up`` take, too;
        or to the whole ``run``.
    page
        The page of the documentation that tells more: ``how-to/cpu-limits``.
    default
        What a flag is if nobody has chosen, which the signature of the marker shows; ``None`` for all others.
    secret
        Whether no message shows its value.
    locates
        Whether *parse* gets any value as it is, be it a function or a list, with the folders in which relative paths
        are looked for and with the source, which the message of its `SettingsError` begins with.
    """

    name: str
    parse: Callable[..., Any]
    help: str
    metavar: str = ""
    applies: Literal["guest", "nodes", "run"] = "run"
    page: str = ""
    default: bool | str | None = None
    secret: bool = False
    locates: bool = False

    @property
    def option(self) -> str:
        """The command line option."""
        return "--pidoc-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """The ini key."""
        return "pidoc_" + self.name

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "PIDOC_" + self.name.upper()

    def read(self, value: object, source: str, places: Sequence[Path] | None = None) -> Any:
        """Return the field's value; relative paths are looked for in *places*, by default in the current directory.

        Raises
        ------
        SettingsError
            It is not usable; the message names the *source* and what would be right.
        """
        if self.locates:
            return self.parse(value, (Path.cwd(),) if places is None else places, source)
        try:
            return self.parse(_plain(value))
        except ValueError as error:
            given = "the value" if self.secret else shown(value)
            raise SettingsError(f"{source}: {given} is not {error}.") from None


class Chosen(NamedTuple):
    """The values that somebody chose, by the option's name, where each of them came from, and which are secret."""

    values: dict[str, Any]
    sources: dict[str, str]
    secrets: frozenset[str] = frozenset()

    def __str__(self) -> str:
        values = {name: "***" if name in self.secrets else _listed(value) for name, value in self.values.items()}
        return ", ".join(f"{name} {values[name]} (from {source})" for name, source in self.sources.items())


def choose(
    rows: Sequence[Option],
    options: Mapping[str, object],
    environment: Mapping[str, str],
    ini: Mapping[str, object],
    *,
    prefix: str = "--pidoc-",
    places: Sequence[Path] | None = None,
) -> Chosen:
    """Return what was given for each row: an option is stronger than the environment, and that than the ini file.

    Relative paths are looked for in *places*, by default in the current directory.

    Raises
    ------
    SettingsError
        A value is not usable; the message names where it came from and what would be right.
    """
    found = Chosen({}, {}, frozenset(option.name for option in rows if option.secret))
    for option in rows:
        for source, value in (
            (option.option.replace("--pidoc-", prefix), options.get(option.name)),
            (option.variable, environment.get(option.variable)),
            (f"{option.ini} in the ini file", ini.get(option.name)),
        ):
            if value is not None and not (isinstance(value, str) and not value):
                found.values[option.name] = option.read(value, source, places)
                found.sources[option.name] = source
                break
    return found


def _listed(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _plain(value: object) -> object:
    """Return a text or a number; of a path its text, and of what is neither an object that no setting can be.

    No setting is of another type, whose ``==``, ``str()`` or ``__fspath__()`` may do anything.
    """
    try:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
    except Exception:  # noqa: BLE001 # a class of the user's own
        return object()
    return text if isinstance(text, (str, numbers.Real)) else object()
