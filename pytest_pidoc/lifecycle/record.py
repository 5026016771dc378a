"""The record of a cluster, ``cluster.json``: all that another process needs to use its nodes, as one checked value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_pidoc.engines.engine import Endpoint
from pytest_pidoc.errors import PidocError
from pytest_pidoc.host import processes, records
from pytest_pidoc.settings.spec import ClusterSpec
from pytest_pidoc.values.checks import is_number, is_whole
from pytest_pidoc.vm.bringup import Timings

__all__ = ["ClusterRecord", "NodeRecord", "keep"]


@dataclass(frozen=True)
class NodeRecord:
    """One node that is ready.

    Attributes
    ----------
    name
        ``pi-1``.
    endpoint
        Where it is.
    host_keys
        The public SSH host keys that it is known by.
    timings
        How it started.
    """

    name: str
    endpoint: Endpoint
    host_keys: tuple[str, ...]
    timings: Timings

    @classmethod
    def from_json(cls, directory: Path, value: Any) -> NodeRecord:
        """Read the entry of the node in *directory*, in which alone its files are looked for.

        Raises
        ------
        ValueError, TypeError, KeyError, AttributeError
            It is not what `to_json` wrote.
        """
        endpoint = Endpoint(**{**value["endpoint"], "directory": Path(value["endpoint"]["directory"])})
        keys = value["host_keys"]
        _require(value["name"] == directory.name and directory.is_dir() and endpoint.directory == directory)
        _require(all(map(_is_text, (endpoint.engine, endpoint.host, endpoint.handle))))
        _require(is_whole(endpoint.port, 1, 65535))
        _require(endpoint.engine != "local" or processes.is_identity(endpoint.handle))
        _require(isinstance(keys, list) and all(map(_is_text, keys)))
        return cls(directory.name, endpoint, tuple(keys), Timings(**value["timings"]))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "endpoint": {**dataclasses.asdict(self.endpoint), "directory": str(self.endpoint.directory)},
            "host_keys": self.host_keys,
            "timings": dataclasses.asdict(self.timings),
        }


@dataclass(frozen=True)
class ClusterRecord:
    """A cluster, as the process that starts it writes it down.

    Attributes
    ----------
    directory
        The cluster's directory, whose name is the cluster's.
    owner
        The identity of the process with which the nodes end; ``None`` if they outlive it.
    run
        The name of the test run whose processes share it; empty if nobody does.
    memory
        Bytes of the host's memory that it can use.
    created
        When its start began, in seconds since the epoch.
    spec
        What was asked for.
    provision
        What it takes, as `Provision.to_record` returns it.
    switch
        The identity of the LAN's switch; ``None`` without a LAN.
    template
        The directory of the saved machine that the nodes were forked from; ``None`` after a cold start.
    nodes
        The nodes in their order; none while they start.
    """

    directory: Path
    owner: str | None
    run: str
    memory: int
    created: float
    spec: ClusterSpec
    provision: Mapping[str, str]
    switch: str | None = None
    template: Path | None = None
    nodes: tuple[NodeRecord, ...] = ()

    @property
    def engine(self) -> str:
        """The name of the engine that runs it."""
        return self.provision["engine"]

    @classmethod
    def read(cls, directory: Path) -> ClusterRecord:
        """Read the record of the cluster in *directory*.

        Raises
        ------
        PidocError
            There is no such cluster, or its record is damaged or another version's.
        """
        value = records.read(directory)
        try:
            return cls.from_json(directory, value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PidocError(
                f"The record of the cluster {directory.name} is damaged, or was written by another version.",
                look=str(directory / records.RECORD),
                tip=f"run pidoc down {directory.name}",
            ) from error

    @classmethod
    def from_json(cls, directory: Path, value: Mapping[str, Any]) -> ClusterRecord:
        """Read what `to_json` has written for the cluster in *directory*.

        Raises
        ------
        ValueError, TypeError, KeyError, AttributeError
            It has not.
        """
        provision, template, switch = value["provision"], value["template"], value["switch"]
        spec = ClusterSpec.from_json(value["spec"])
        _require(isinstance(spec.model, str) and is_number(value["created"], 0, 1e12))
        _require(all(_is_text(provision[name]) for name in ("engine", "image", "reference")))
        _require(template is None or _is_text(template))
        _require(switch is None or processes.is_identity(switch))
        _require(isinstance(value["nodes"], list))
        return cls(
            directory,
            owner=value["owner"],
            run=str(value.get("run", "")),
            memory=int(value.get("memory") or 0),
            created=value["created"],
            spec=spec,
            provision=provision,
            switch=switch,
            template=None if template is None else Path(template),
            nodes=tuple(
                NodeRecord.from_json(directory / f"pi-{number}", node) for number, node in enumerate(value["nodes"], 1)
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; the fields that end a cluster come first."""
        return {
            "name": self.directory.name,
            "owner": self.owner,
            "engine": self.engine,
            "run": self.run,
            "memory": self.memory,
            "created": self.created,
            "spec": self.spec.to_json(),
            "provision": dict(self.provision),
            "switch": self.switch,
            "template": None if self.template is None else str(self.template),
            "nodes": [node.to_json() for node in self.nodes],
        }

    def write(self) -> None:
        """Write it into the cluster's directory, whole or not at all."""
        records.write(self.directory, self.to_json())


def keep(directory: Path) -> None:
    """Write down that the cluster in *directory* outlives the process that started it.

    Raises
    ------
    PidocError
        There is no such cluster.
    """
    records.write(directory, {**records.read(directory), "owner": None, "run": ""})


def _require(holds: object) -> None:
    if not holds:
        raise ValueError("a field has another value than is ever written")


def _is_text(value: object) -> bool:
    """Tell whether that is a text of printable ASCII characters."""
    return isinstance(value, str) and value.isascii() and value.isprintable()
