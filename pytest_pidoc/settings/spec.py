"""The settings of a run, and what a cluster is asked to be: values that are checked once, when they are made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.settings import conflicts
from pytest_pidoc.settings.table import (
    DEFAULT_IMAGE_PASSWORD,
    DEFAULT_IMAGE_USER,
    DEFAULT_MODEL,
    IMAGES_OWN,
    MARKER_SIGNATURE,
    NUMBER,
    OPTIONS,
    signature,
)
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.options import choose

if TYPE_CHECKING:
    from pytest_pidoc.steps.steps import Step

__all__ = ["ClusterSpec", "Settings"]

THE_MARKER = "the marker pidoc"


def _default(name: str) -> Any:
    """Return the default of a setting that its row in the table has, because the marker's signature shows it."""
    return next(option.default for option in OPTIONS if option.name == name)


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-pidoc"


@dataclass(frozen=True)
class ClusterSpec:
    """What a cluster is asked to be; two tests with equal specs share one.

    ``memory`` is in bytes: ``None`` means the model's own. ``cpus`` is a limit unless it is ``None``. ``boot_timeout``
    is in seconds: ``None`` means by the host's speed. ``kernel``, ``initrd`` and ``dtb`` are each a path, or a URL with
    its SHA-256, of what is used instead of the image's own. ``image_user`` and ``image_password`` log in on the serial
    console of somebody else's disk image, once. ``mips`` is how many million instructions are a second of the guest's
    clock, which follows the host's clock if it is ``None``. ``hostname`` has ``{n}`` where the number of the node is,
    or is ``{image}`` for the image's own. ``prepare`` are the steps that are done to a new cluster, and
    ``prepare_files`` absolute paths and patterns of the files that they use.
    """

    nodes: int = 1
    model: str = DEFAULT_MODEL
    image: str = "debian:bookworm"
    engine: str = "auto"
    memory: int | None = None
    cpus: float | None = None
    boot_timeout: float | None = None
    start: str = "warm"
    kernel: str | None = None
    initrd: str | None = None
    dtb: str | None = None
    image_user: str = DEFAULT_IMAGE_USER
    image_password: str = field(default=DEFAULT_IMAGE_PASSWORD, repr=False)
    append: str | None = None
    announce_board: bool = _default("announce_board")
    mips: float | None = None
    lan: bool = _default("lan")
    hostname: str = _default("hostname")
    internet: bool = _default("internet")
    host_access: bool = _default("host_access")
    prepare: tuple[Step, ...] = ()
    prepare_files: tuple[Path, ...] = ()

    def host_name(self, number: int) -> str:
        """Return the host name of a node by its number, from 1 on; empty for the image's own."""
        return "" if self.hostname == IMAGES_OWN else self.hostname.replace(NUMBER, str(number))

    @property
    def memory_per_node(self) -> int:
        """The RAM of each node in bytes."""
        from pytest_pidoc.machines import machine

        return self.memory or machine(self.model).memory

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; of each step what it is known by."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(ClusterSpec)},
            "prepare": [step.to_json() for step in self.prepare],
            "prepare_files": [str(path) for path in self.prepare_files],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClusterSpec:
        """Read what `to_json` returned; its steps are equal to those that it was made of, but cannot be done again.

        Raises
        ------
        ValueError, TypeError, KeyError
            It is something else.
        """
        steps: tuple[Step, ...] = ()
        if value.get("prepare"):
            from pytest_pidoc.steps.steps import Recorded

            steps = tuple(Recorded.from_json(each) for each in value["prepare"])
        files = tuple(Path(path) for path in value.get("prepare_files", ()))
        return ClusterSpec(**{**value, "prepare": steps, "prepare_files": files})


@dataclass(frozen=True)
class Settings(ClusterSpec):
    """The settings of a run, each with where it came from: those of the clusters that it starts, and its own.

    Where a cluster is described, `spec` is what is wanted, not the settings.
    """

    workers: str = "shared"
    overcommit: bool = False
    prepare_again: bool = False
    cache_dir: Path = field(default_factory=_cache_home)
    keep: str = "never"
    artifacts: Path | None = None
    require: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each value that is not the default came from: ``{"engine": "--pidoc-engine"}``."""

    @classmethod
    def load(
        cls,
        options: Mapping[str, object] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        ini: Mapping[str, object] | None = None,
        prefix: str = "--pidoc-",
    ) -> Settings:
        """Read the settings; an option is stronger than the environment, which is stronger than the ini file.

        Parameters
        ----------
        options, ini
            Values by the setting's name; ``None`` and ``""`` mean not given.
        environment
            The environment; by default this process's.
        prefix
            What the options' names start with, for messages: ``--`` on the command line of ``pidoc``.

        Raises
        ------
        SettingsError
            A value is not usable; the message names where it came from and what would be right.
        """
        environment = os.environ if environment is None else environment
        chosen = choose(OPTIONS, options or {}, environment, ini or {}, prefix=prefix)
        return cls(**chosen.values, sources=chosen.sources)

    def source(self, name: str) -> str:
        """Return where the value of *name* came from: an option, a variable, an ini key or ``default``."""
        return self.sources.get(name, "default")

    def spec(
        self,
        marker: Mapping[str, object] | None = None,
        *,
        where: str = THE_MARKER,
        places: Sequence[Path] | None = None,
    ) -> ClusterSpec:
        """Return the cluster that a marker's arguments ask for, filled up from these settings.

        Parameters
        ----------
        marker
            The arguments by name; ``None`` as a value means not given.
        where
            Who takes the arguments, for the errors: the marker, or the name of the function that was called.
        places
            The folders in which relative paths are looked for; by default the current directory.

        Raises
        ------
        SettingsError
            An argument is unknown or bad, and the tip prints what *where* takes; or the engine, the model or the image
            would ignore it.
        """
        tip = MARKER_SIGNATURE if where == THE_MARKER else signature(where)
        names = [each.name for each in fields(ClusterSpec)]
        values = {name: getattr(self, name) for name in names}
        rows = {option.name: option for option in OPTIONS}
        for name, value in (marker or {}).items():
            if name not in names:
                raise SettingsError(f"{where} has no argument {shown(name)}.", tip=tip)
            if value is not None:
                try:
                    values[name] = rows[name].read(value, f"{name} of {where}", places)
                except SettingsError as error:
                    raise SettingsError(error.what, tip=error.tip or tip) from None
        conflicts.refuse(values, [name for name, value in (marker or {}).items() if value is not None])
        return ClusterSpec(**values)
