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

__all__ = ["AskedNodes", "read_marker", "unheard"]

SHARED_NODES = "pidoc_cluster"


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
            spec = benchmark_hooks.spec_for_benchmarks(item, settings.spec())
            return AskedNodes(spec, fresh=bool(spec.prepare))
        if len(marker.args) > 1 or (marker.args and "nodes" in arguments):
            raise SettingsError("The marker pidoc takes one positional argument, nodes.", tip=MARKER_SIGNATURE)
        if marker.args:
            arguments["nodes"] = marker.args[0]
        is_said = any(flag.name in arguments for flag in FLAGS)
        flags = {flag.name: _read_flag(flag, arguments.pop(flag.name, False)) for flag in FLAGS}
        if flags["fresh"] and flags["shared"]:
            raise SettingsError("The marker pidoc takes fresh=True or shared=True, not both.", tip=MARKER_SIGNATURE)
        places = (item.path.parent, item.config.rootpath)
        spec = benchmark_hooks.spec_for_benchmarks(item, settings.spec(arguments, places=places))
        if spec.prepare and not is_said:  # a fork costs about as much as giving back a used cluster
            flags["fresh"] = True
        return AskedNodes(spec, **flags)
    except SettingsError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


def unheard(item: pytest.Item, settings: Settings) -> str:
    """Return what is wrong with a test's marker if the test has ``pidoc_cluster``, which asks for something else.

    The marker describes the nodes of ``pi_cluster``: nothing is wrong if the test has these, too.

    Parameters
    ----------
    item
        The test, when its fixtures are there.
    settings
        What the marker leaves out.

    Returns
    -------
    A message; empty if the marker is as good as heard, or there is none.
    """
    fixtures, marker = getattr(item, "funcargs", None) or {}, item.get_closest_marker("pidoc")
    there = getattr(fixtures.get(SHARED_NODES), "spec", None)
    if marker is None or there is None or "pi_cluster" in fixtures:
        return ""
    asked = read_marker(item, settings)
    names = [*marker.kwargs, *["nodes"][: len(marker.args)]]
    wanted = [f"{name}={getattr(asked, name)!r}" for name in ("fresh", "shared") if getattr(asked, name)]
    for name in names:
        if hasattr(there, name) and (value := getattr(asked.spec, name)) != getattr(there, name):
            wanted.append(f"{name}={value!r}")
    if not wanted:
        return ""
    error = SettingsError(
        f"The marker asks for {', '.join(wanted)}, but {SHARED_NODES} is the same for all tests.",
        tip="use pi_cluster, which is as the marker says, or a fixture of your own on pidoc_boot",
    )
    return f"{item.nodeid}: {error}"


def _read_flag(flag: Option, value: object) -> bool:
    try:
        return bool(flag.read(value, f"{flag.name} of the marker pidoc"))
    except SettingsError as error:
        raise SettingsError(error.what, tip=MARKER_SIGNATURE) from None
