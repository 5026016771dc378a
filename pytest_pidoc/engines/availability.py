"""Whether the installed QEMU supports a model: not every version has every board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.machines import MODELS, Machine

if TYPE_CHECKING:
    from pytest_pidoc.engines.engine import Engine
    from pytest_pidoc.qemu.program import QemuVersion

__all__ = ["Availability", "availabilities", "require"]

#: How to get a newer QEMU, by engine.
_NEWER = {
    "local": (
        "on Debian bookworm, run apt-get install -t bookworm-backports qemu-system-arm,"
        " or use --pidoc-engine=docker, which has its own QEMU"
    ),
    "docker": "use a container image with a newer QEMU, such as one on Debian trixie (pidoc build --base-image)",
}


@dataclass(frozen=True)
class Availability:
    """Whether an engine's QEMU supports a model.

    Attributes
    ----------
    machine
        The model.
    found
        The version of its QEMU program; ``None`` if that is not installed.
    """

    machine: Machine
    found: QemuVersion | None

    @property
    def ok(self) -> bool:
        """Whether nodes of the model can be started."""
        return self.found is not None and self.found.numbers >= self.machine.least_qemu

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.machine.binary} is not installed"
        if not self.ok:
            return f"requires {_needed(self.machine)} or newer (installed: {_numbers(self.found)})"
        return "yes"


def availabilities(engine: Engine) -> list[Availability]:
    """Return whether the QEMU of *engine* supports each model, in the order of the table."""
    versions: dict[str, QemuVersion | None] = {}
    for binary in {row.binary for row in MODELS.values()}:
        try:
            versions[binary] = engine.qemu_version(binary)
        except EngineUnavailable:
            versions[binary] = None
    return [Availability(row, versions[row.binary]) for row in MODELS.values()]


def require(machine: Machine, engine: Engine) -> None:
    """Require that *engine* can start nodes of a model.

    Raises
    ------
    EngineUnavailable
        Its QEMU is too old, or not installed; the tip says how to install another one.
    """
    version = engine.qemu_version(machine.binary)
    if not Availability(machine, version).ok:
        raise EngineUnavailable(
            f"The model {machine.name} requires {_needed(machine)} or newer, but engine {engine.name} has {version}.",
            tip=_NEWER[engine.name],
        )


def _needed(machine: Machine) -> str:
    return "QEMU " + ".".join(map(str, machine.least_qemu))


def _numbers(version: QemuVersion) -> str:
    return ".".join(map(str, version.numbers))
