"""The settings: what can be chosen, where a value came from, and what is wrong with a bad one."""

from __future__ import annotations

import math
import numbers
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.machines import DEFAULT_MODEL, MIB, MODELS
from pytest_pidoc.values.checks import MOST_SECONDS, shown

__all__ = ["MARKER_SIGNATURE", "NO_FILE", "OPTIONS", "ClusterSpec", "Option", "Settings", "parse_size"]

MARKER_SIGNATURE = (
    "pidoc(nodes=1, *, model=None, image=None, memory=None, cpus=None, engine=None, fresh=False, shared=False,"
    " lan=True, internet=True, host_access=False, boot_timeout=None, start=None, kernel=None, initrd=None, dtb=None,"
    " append=None, announce_board=None, mips=None)"
)
NO_FILE = "none"  # for a part of an image that is to be left out
MOST_NODES = 250
LEAST_MEMORY = 64 * MIB

#: Millions of instructions that may be a second of the guest's: QEMU lets one take a power of two of nanoseconds.
MIPS = tuple(1000 / 2**shift for shift in range(7))
_MIPS_WANTED = f"a number of million instructions per second: {', '.join(f'{each:g}' for each in MIPS)}"


def parse_size(value: object) -> int:
    """Return a size in bytes from a number of bytes or a text such as ``512M`` or ``1G`` (powers of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = re.fullmatch(r"(\d{1,12})\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError("a size such as 512M or 1G")
    unit: int = 1024 ** " KMGT".index(found[2].upper() or " ")
    return int(found[1]) * unit


def _engine(value: object) -> str:
    return _one_of(value, ("auto", "docker", "local"))


def _start(value: object) -> str:
    return _one_of(value, ("warm", "cold"))


def _keep(value: object) -> str:
    return _one_of(value, ("never", "on-failure", "always"))


def _workers(value: object) -> str:
    return _one_of(value, ("shared", "own"))


def _model(value: object) -> str:
    return _one_of(value, tuple(MODELS))


def _one_of(value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    return str(value)


def _image(value: object) -> str:
    return _line(value, "an image such as debian:bookworm, raspios, a path, URL#sha256=HEX or docker://host/name:tag")


def _file(value: object) -> str:
    return _line(value, "a path or URL#sha256=<64 hex digits>")


def _append(value: object) -> str:
    return _line(value, "kernel arguments such as 'quiet maxcpus=1'", least=0)


def _nodes(value: object) -> int:
    return _whole(value, 1, MOST_NODES, f"a whole number from 1 to {MOST_NODES}")


def _memory(value: object) -> int:
    size = parse_size(value)
    if size < LEAST_MEMORY or size > 1024**4 or size % MIB:
        raise ValueError("a whole number of MiB from 64M on, such as 512M or 1G")
    return size


def _cpus(value: object) -> float:
    return _real(value, 0.01, 256, "a number of CPUs from 0.01 to 256")


def _mips(value: object) -> float:
    number = _real(value, 0, 1000, _MIPS_WANTED)
    if number not in MIPS:
        raise ValueError(_MIPS_WANTED)
    return number


def _seconds(value: object) -> float:
    return _real(value, 0.001, MOST_SECONDS, f"a number of seconds up to {MOST_SECONDS:.0f}")


def _line(value: object, wanted: str, *, least: int = 1) -> str:
    if not isinstance(value, str) or len(value.strip()) < least or not value.isprintable():
        raise ValueError(wanted)
    return value.strip()


def _whole(value: object, least: int, most: int, wanted: str) -> int:
    if not (
        isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,20}\s*", value, re.ASCII))
    ):
        raise ValueError(wanted)
    if isinstance(value, bool) or not least <= int(value) <= most:
        raise ValueError(wanted)
    return int(value)


def _real(value: object, least: float, most: float, wanted: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most:  # false for NaN, too
        raise ValueError(wanted)
    return number


def _directory(value: object) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("a directory")
    try:
        path = Path(value).expanduser().absolute()
        found = path.stat()
    except FileNotFoundError:
        return path  # it is made when it is needed
    except (OSError, RuntimeError, UnicodeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it cannot be made out"
        raise ValueError(f"a directory that can be used: {reason}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError("a directory, and this is a file")
    return path


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("yes or no")


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-pidoc"


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
    """

    name: str
    parse: Callable[[object], Any]
    help: str
    metavar: str = ""

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


_FILE = "PATH|URL#sha256=HEX"

OPTIONS: tuple[Option, ...] = (
    Option(
        "engine",
        _engine,
        "what runs the nodes: auto (Docker if its daemon answers, else local)",
        "auto|docker|local",
    ),
    Option("model", _model, f"the emulated board: {', '.join(MODELS)}", "MODEL"),
    Option("image", _image, "what nodes boot from: debian[:RELEASE], or docker://NAME:TAG to pull", "IMAGE"),
    Option("nodes", _nodes, "how many nodes a marker without a number asks for", "N"),
    Option("memory", _memory, "RAM per node, such as 512M (default: the model's)", "SIZE"),
    Option("cpus", _cpus, "host CPUs that a node may use, such as 0.5", "CPUS"),
    Option("boot_timeout", _seconds, "seconds a boot may take (default: by this host's speed)", "SECONDS"),
    Option("start", _start, "fork nodes from a saved machine (warm) or boot each (cold)", "warm|cold"),
    Option("kernel", _file, "the kernel, in place of the image's own", _FILE),
    Option("initrd", _file, "the initial RAM disk, in place of the image's own; none for none", _FILE),
    Option("dtb", _file, "the device tree, in place of the image's or QEMU's", _FILE),
    Option("append", _append, "kernel arguments, beside those of the model and the image", "ARGUMENTS"),
    Option("announce_board", _flag, "tell the guest of a -virt model that it is the board whose CPU it has"),
    Option("mips", _mips, "let the guest's clock count instructions: so many millions are a second", "MIPS"),
    Option("lan", _flag, "connect the nodes of a cluster with each other (default: yes)", "yes|no"),
    Option("internet", _flag, "let the nodes reach the internet (default: yes)", "yes|no"),
    Option("host_access", _flag, "let the nodes reach what listens on this machine's 127.0.0.1, as 10.0.2.2"),
    Option("workers", _workers, "workers of pytest-xdist share clusters, or each has its own", "shared|own"),
    Option("overcommit", _flag, "start nodes for which this machine has too little memory"),
    Option("cache_dir", _directory, "where images are kept (default: ~/.cache/pytest-pidoc)", "DIR"),
    Option("keep", _keep, "let nodes outlive the run: those of failed tests, or all", "never|on-failure|always"),
    Option("artifacts", _directory, "where evidence of failed tests is kept (default: pytest's base temp)", "DIR"),
    Option("require", _flag, "fail instead of skipping where no engine can be used"),
)


@dataclass(frozen=True)
class ClusterSpec:
    """What a cluster is asked to be; two tests with equal specs share one.

    ``memory`` is in bytes, ``boot_timeout`` in seconds; ``None`` means the model's own, no limit and by the host's
    speed, in this order. ``kernel``, ``initrd`` and ``dtb`` are each a path, or a URL with its SHA-256, of what is put
    in the place of the image's own. ``mips`` is how many million instructions are a second of the guest's clock, which
    is the host's if it is ``None``.
    """

    nodes: int
    model: str
    image: str
    engine: str
    memory: int | None
    cpus: float | None
    boot_timeout: float | None
    start: str = "warm"
    kernel: str | None = None
    initrd: str | None = None
    dtb: str | None = None
    append: str | None = None
    announce_board: bool = False
    mips: float | None = None
    lan: bool = True
    internet: bool = True
    host_access: bool = False


@dataclass(frozen=True)
class Settings:
    """The settings of a run, each with where it came from.

    ``memory`` is in bytes, ``boot_timeout`` in seconds.
    """

    engine: str = "auto"
    model: str = DEFAULT_MODEL
    image: str = "debian:bookworm"
    nodes: int = 1
    memory: int | None = None
    cpus: float | None = None
    boot_timeout: float | None = None
    start: str = "warm"
    kernel: str | None = None
    initrd: str | None = None
    dtb: str | None = None
    append: str | None = None
    announce_board: bool = False
    mips: float | None = None
    lan: bool = True
    internet: bool = True
    host_access: bool = False
    workers: str = "shared"
    overcommit: bool = False
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
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for option in OPTIONS:
            for source, value in (
                (option.option.replace("--pidoc-", prefix), (options or {}).get(option.name)),
                (option.variable, environment.get(option.variable)),
                (f"{option.ini} in the ini file", (ini or {}).get(option.name)),
            ):
                if value is not None and not (isinstance(value, str) and not value):
                    values[option.name] = _parse(option, value, source)
                    sources[option.name] = source
                    break
        return cls(**values, sources=sources)

    def source(self, name: str) -> str:
        """Return where the value of *name* came from: an option, a variable, an ini key or ``default``."""
        return self.sources.get(name, "default")

    def spec(self, marker: Mapping[str, object] | None = None, *, where: str = "the marker pidoc") -> ClusterSpec:
        """Return the cluster that a marker's arguments ask for, filled up from these settings.

        Raises
        ------
        SettingsError
            An argument is unknown or bad, and the tip prints the marker's signature; or the model cannot have
            that much or that little memory.
        """
        names = [each.name for each in fields(ClusterSpec)]
        values = {name: getattr(self, name) for name in names}
        parsers = {option.name: option for option in OPTIONS}
        for name, value in (marker or {}).items():
            if name not in names:
                raise SettingsError(f"{where} has no argument {shown(name)}.", tip=MARKER_SIGNATURE)
            if value is not None:
                try:
                    values[name] = _parse(parsers[name], value, f"{name} of {where}")
                except SettingsError as error:
                    raise SettingsError(error.what, tip=MARKER_SIGNATURE) from None
        spec = ClusterSpec(**values)
        _check_memory(spec)
        return spec


def _check_memory(spec: ClusterSpec) -> None:
    """Refuse another size of RAM than the board's own: QEMU would, after an image was built for it."""
    model = MODELS[spec.model]
    if model.fixed_memory and spec.memory not in (None, model.memory):
        raise SettingsError(
            f"memory: {spec.model} has {model.memory // MIB}M like the board, and cannot have {spec.memory // MIB}M.",
            tip="leave memory out, or a -virt model",
        )


def _parse(option: Option, value: object, source: str) -> Any:
    try:
        return option.parse(_plain(value))
    except ValueError as error:
        raise SettingsError(f"{source}: {shown(value)} is not {error}.") from None


def _plain(value: object) -> object:
    """Return a text or a number; of a path its text, and of what is neither an object that no setting can be.

    No setting is of another type, whose ``==``, ``str()`` or ``__fspath__()`` may do anything.
    """
    try:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
    except Exception:  # noqa: BLE001 # a class of the user's own
        return object()
    return text if isinstance(text, (str, numbers.Real)) else object()
