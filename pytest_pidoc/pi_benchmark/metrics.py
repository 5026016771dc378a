"""What can be measured, and which models can give it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings.spec import ClusterSpec
from pytest_pidoc.values.checks import shown

__all__ = ["DEFAULT_MIPS", "METRICS", "Metric", "metric", "spec_for"]

DEFAULT_MIPS = 1000.0


@dataclass(frozen=True)
class Metric:
    """One thing that can be measured.

    Attributes
    ----------
    name
        What options and markers take.
    unit
        ``""`` for a number of things, ``s`` for seconds.
    meaning
        In a few words.
    counting
        Whether the guest's clock has to count instructions for it.
    """

    name: str
    unit: str
    meaning: str
    counting: bool

    def show(self, value: float) -> str:
        """Return a value as text."""
        return f"{value:.4f} s" if self.unit else f"{value:,.0f}"


METRICS: dict[str, Metric] = {
    each.name: each
    for each in (
        Metric("instructions", "", "what the program and its children execute, without the kernel", counting=True),
        Metric(
            "guest_time", "s", "the processor time that the guest's kernel gives it, with system calls", counting=False
        ),
        Metric("virtual_time", "s", "what passes on the guest's clock that counts instructions", counting=True),
        Metric("wall_time", "s", "what passes on the host's clock", counting=False),
    )
}


def metric(name: object) -> Metric:
    """Return the metric called *name*.

    Raises
    ------
    SettingsError
        There is no such metric.
    """
    if not isinstance(name, str) or name not in METRICS:
        raise SettingsError(f"There is no metric {shown(name)}.", tip=f"choose one of {', '.join(METRICS)}")
    return METRICS[name]


def spec_for(spec: ClusterSpec, names: Iterable[str]) -> ClusterSpec:
    """Return what has to be started to measure these metrics: *spec*, with a clock that counts if one of them needs it.

    Raises
    ------
    SettingsError
        The model cannot give one of them.
    """
    wanted, model = [metric(name) for name in names], MODELS[spec.model]
    if any(each.name == "instructions" for each in wanted) and not model.has_counter:
        able = ", ".join(row.name for row in MODELS.values() if row.has_counter)
        raise SettingsError(
            f"The model {spec.model} cannot count a program's instructions.",
            tip=f'use one of the models {able}, or metric="guest_time", which {spec.model} supports',
        )
    if spec.mips is None and not model.icount and any(each.name != "wall_time" for each in wanted):
        return replace(spec, mips=DEFAULT_MIPS)
    return spec
