"""The marker ``pidoc`` of a test, read and checked; it is imported in every run and imports little."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.pi_benchmark import hooks as benchmark_hooks
from pytest_pidoc.settings.table import FLAGS, MARKER_SIGNATURE
from pytest_pidoc.values.options import Option

if TYPE_CHECKING:
    from pytest_pidoc.settings.spec import ClusterSpec, Settings

__all__ = ["AskedNodes", "read_marker"]


class AskedNodes(NamedTuple):
    """What a marker asks for: nodes, and whether they are the test's own, or shared with others at the same time."""

    spec: ClusterSpec
    fresh: bool = False
    shared: bool = False


def read_marker(item: pytest.Item, settings: Settings) -> AskedNodes:
    """Return what the closest marker of a test asks for.

    Parameters
    ----------
    item
        The test.
    settings
        What the marker leaves out.

    Raises
    ------
    pytest.UsageError
        The marker is invalid.
    """
    marker = item.get_closest_marker("pidoc")
    arguments = dict(marker.kwargs) if marker else {}
    try:
        if marker is None:
            return AskedNodes(benchmark_hooks.spec_for_benchmarks(item, settings.spec()))
        if len(marker.args) > 1 or (marker.args and "nodes" in arguments):
            raise SettingsError("The marker pidoc takes one positional argument, nodes.", tip=MARKER_SIGNATURE)
        if marker.args:
            arguments["nodes"] = marker.args[0]
        flags = {flag.name: _read_flag(flag, arguments.pop(flag.name, False)) for flag in FLAGS}
        if flags["fresh"] and flags["shared"]:
            raise SettingsError("The marker pidoc takes fresh=True or shared=True, not both.", tip=MARKER_SIGNATURE)
        return AskedNodes(benchmark_hooks.spec_for_benchmarks(item, settings.spec(arguments)), **flags)
    except SettingsError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


def _read_flag(flag: Option, value: object) -> bool:
    try:
        return bool(flag.read(value, f"{flag.name} of the marker pidoc"))
    except SettingsError as error:
        raise SettingsError(error.what, tip=MARKER_SIGNATURE) from None
