"""A cluster: nodes that start together and end together."""

from __future__ import annotations

import copyreg
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, overload

from pytest_pidoc.engines.engine import Engine
from pytest_pidoc.errors import FaultError
from pytest_pidoc.group.nodes import Nodes
from pytest_pidoc.guest import exports
from pytest_pidoc.guest.ssh import Login
from pytest_pidoc.host import processes, records
from pytest_pidoc.lan import conditions as lan_faults
from pytest_pidoc.lan.lan import Lan
from pytest_pidoc.lifecycle import capacity
from pytest_pidoc.lifecycle.attempt import Member, Ownership, Started, launch_of
from pytest_pidoc.lifecycle.provision import Provision
from pytest_pidoc.lifecycle.record import ClusterRecord, keep
from pytest_pidoc.lifecycle.saved import Saved
from pytest_pidoc.lifecycle.start import Starter
from pytest_pidoc.node import Node
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.settings.table import OPTIONS
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.faults import Fault, FaultLog
from pytest_pidoc.values.parallel import side_by_side
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.bringup import Bringup, Timings
from pytest_pidoc.vm.vm import Vm

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Cluster", "ClusterArguments"]


class ClusterArguments(TypedDict, total=False):
    """What `Cluster.up` takes beside ``nodes``: the other fields of `ClusterSpec`, as users write them."""

    model: str | None
    image: str | Path | None
    engine: str | None
    memory: int | str | None
    cpus: float | None
    boot_timeout: float | None
    start: str | None
    kernel: str | Path | None
    initrd: str | Path | None
    dtb: str | Path | None
    image_user: str | None
    image_password: str | None
    append: str | None
    announce_board: bool | None
    mips: float | None
    lan: bool | None
    hostname: str | None
    internet: bool | None
    host_access: bool | None
    prepare: Callable[[Cluster], object] | str | Path | Sequence[Callable[[Cluster], object] | str | Path] | None
    prepare_files: str | Path | Sequence[str | Path] | None


_Function = TypeVar("_Function", bound=Callable[..., object])


def _with_arguments(function: _Function) -> _Function:
    """Name each of `ClusterArguments` in a function's signature and docstring, for ``help()`` and the reference."""
    signature, kinds = inspect.signature(function), ClusterArguments.__annotations__
    arguments = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
        for name, kind in kinds.items()
    ]
    cls, nodes, *others, _ = signature.parameters.values()
    vars(function)["__signature__"] = signature.replace(parameters=[cls, nodes, *arguments, *others])
    described = {option.name: f"{option.help[0].upper()}{option.help[1:]}." for option in OPTIONS}
    lines = "".join(f"{name}\n    {described[name]}\n" for name in kinds)
    function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("<arguments>\n", lines)
    return function


class Cluster(Nodes):
    """A sequence of running nodes; `up` starts a cluster, `attach` finds a running one, `down` ends it.

    ::

        with Cluster.up(nodes=3, model="pi3-virt", engine="local") as cluster:
            print(cluster[0].run("uname -a").stdout)

    A node is found by its place or by its name: ``cluster[1]`` is ``cluster["pi-2"]``.
    """

    def __init__(self, started: Started, *, owned: bool = False) -> None:
        self.spec: ClusterSpec = started.spec
        """The settings that the cluster was started with."""
        self._started = started
        self._owned = owned
        self._down = False

    @classmethod
    @_with_arguments
    def up(
        cls,
        nodes: int | None = None,
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        keep: bool = False,
        **arguments: Unpack[ClusterArguments],
    ) -> Cluster:
        """Start nodes side by side and return when a command has run over SSH on each of them.

        An image that is not there yet is built first, which takes minutes.

        Parameters
        ----------
        nodes
            How many; ``None`` means as many as *settings* say, as with each of the following.
        <arguments>
        settings
            By default the settings of the environment.
        progress
            Hears what is being done, and how far a copy is that takes long.
        keep
            Let the nodes outlive this process: they run until ``pidoc down``.

        Raises
        ------
        SettingsError
            An argument is not usable.
        EngineUnavailable
            There is nothing that could run the nodes.
        ImageError
            The image cannot be built or trusted.
        NoRoom
            The nodes do not fit into the host's memory beside those that run.
        BootError
            A node did not become ready. Nothing is left but the logs, in the folder that the message names.
        """
        for name in arguments:
            if name not in ClusterArguments.__annotations__:
                raise TypeError(f"Cluster.up() got an unexpected keyword argument {name!r}")
        settings = settings or Settings.load()
        spec = settings.spec({"nodes": nodes, **arguments}, where="Cluster.up")
        ownership, progress = Ownership(None if keep else processes.own()), progress or Progress()
        patience = Deadline(capacity.PATIENCE, interval=capacity.LOOK_INTERVAL)
        with Starter(spec, settings, ownership, progress, present=cls) as starter:
            started = capacity.awaited(starter.attempt, patience=patience, progress=progress)
        cluster = cls(started, owned=not keep)
        cluster.progress = progress
        return cluster

    @classmethod
    def attach(cls, name: str | Path) -> Cluster:
        """Return a running cluster by its name or directory; it still belongs to the process that started it.

        Raises
        ------
        PidocError
            No such cluster is running, or its record is damaged.
        """
        directory = name if isinstance(name, Path) else records.root() / name
        record = ClusterRecord.read(directory)
        found = Provision.from_record(record.provision)
        lan = Lan(directory, [node.name for node in record.nodes], record.switch) if record.switch else None
        members, faults = [], FaultLog()
        for number, known in enumerate(record.nodes, 1):
            launch = launch_of(record.spec, found, directory, number)
            if record.template is not None:
                launch = Saved(record.template).launch(launch)
            vm = Vm(launch, found.engine, known.endpoint, host_keys=known.host_keys)
            members.append(Member(Node(vm, Bringup(vm, timings=known.timings), faults=faults, lan=lan), vm))
        return cls(Started(directory, record.spec, found, tuple(members), lan=lan))

    @property
    def directory(self) -> Path:
        """The cluster's directory, with one folder per node."""
        return self._started.directory

    @property
    def name(self) -> str:
        """The cluster's name, unique on the host: ``c-1f2e3d4c``."""
        return self.directory.name

    @property
    def engine(self) -> Engine:
        """The engine that runs the nodes."""
        return self._started.found.engine

    @property
    def progress(self) -> Progress:
        """Receives how far a copy to a node or from it is, if that takes long; by default what `up` was given."""
        return self._started.members[0].vm.progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        for member in self._started.members:
            member.vm.progress = progress

    @property
    def faults(self) -> FaultLog:
        """The faults that were injected into the cluster; `down` ends the nodes without undoing them."""
        return self[0].faults

    @property
    def timings(self) -> Timings:
        """How long the start took: each time is that of the slowest node."""
        each = [node.timings for node in self]
        return Timings(
            launched=max(timing.launched for timing in each),
            banner=max(timing.banner for timing in each),
            ready=max(timing.ready for timing in each),
            restored=max((timing.restored for timing in each if timing.restored is not None), default=None),
            start=each[0].start,
        )

    def reset(self, *, timeout: float = 300.0) -> None:
        """Put all nodes back into their first state together: the prepared one, if the cluster was prepared.

        All nodes end before the first starts again, so that none hears another of which the state is a later one.
        Each is then as after `Node.reset`; *timeout* is in seconds. Faults of the LAN last.

        Raises
        ------
        BootError
            A node did not become ready.
        """
        members = self._started.members
        side_by_side(lambda member: member.vm.stop(), members)
        side_by_side(lambda member: member.node.reset(timeout=timeout), members)

    def partition(self, *groups: Sequence[Node | str]) -> Fault:
        """Split the LAN into groups: a node reaches only the nodes of its own group.

        ::

            with cluster.partition([cluster[0]], [cluster[1], cluster[2]]):
                ...

        The nodes that are in no group form one more group. SSH still works, because it does not use the LAN.

        Parameters
        ----------
        groups
            Nodes or their names.

        Returns
        -------
        Fault
            Its ``undo()``, or the end of its ``with`` block, connects the groups again.

        Raises
        ------
        FaultError
            A node is in two groups or does not belong to this cluster, the cluster has no LAN, or its switch has ended.
        """
        return lan_faults.partition(self._lan(), self.faults, [_names(group) for group in groups])

    def degrade(
        self,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        rate: float | None = None,
        between: tuple[Node | str | Sequence[Node | str], Node | str | Sequence[Node | str]] | None = None,
    ) -> Fault:
        """Delay, lose or limit the traffic in the LAN, between all nodes or between some.

        Parameters
        ----------
        delay
            Seconds added to a round trip: half on the way there, half on the way back.
        jitter
            Seconds by which that delay of a round trip varies up and down. Packets can overtake each other.
        loss
            The share of packets that are lost in each direction, from 0 to 1.
        rate
            Bits per second in each direction; ``None`` for no limit.
        between
            Two nodes, or two groups of nodes; by default every pair of nodes.

        Returns
        -------
        Fault
            Its ``undo()``, or the end of its ``with`` block, ends the condition. Several conditions add up.

        Raises
        ------
        FaultError
            An argument is invalid, the cluster has no LAN, or its switch has ended.
        """
        sides = [_names(side) for side in between] if isinstance(between, (tuple, list)) else between
        return lan_faults.degrade(
            self._lan(), self.faults, delay=delay, jitter=jitter, loss=loss, rate=rate, between=sides
        )

    def trust(self) -> None:
        """Let the nodes log in to each other over SSH, as MPI and Ansible do: ``pi.run("ssh pi-2 hostname")``.

        The user of each node gets a key that all nodes accept, and the host keys of all nodes, under their names and
        addresses in the LAN. Nobody is asked for anything. Root gets no key: ``ssh pi-2 sudo id`` is root there. The
        key is one of this cluster alone, and not the one with which tests log in.

        Another call changes nothing, unless a node was `reset` meanwhile, which takes all of this from it.

        Raises
        ------
        FaultError
            The cluster has no LAN, or its switch has ended.
        PidocError
            The user of a node has another key in ``~/.ssh/id_ed25519``, or the disk is full.
        NodeDied, KernelPanic
            A node is off, has died, or its kernel panicked.
        """
        from pytest_pidoc.group import trust

        self._lan()
        host_keys = {member.vm.name: member.vm.host_keys for member in self._started.members}
        host_names = {node.name: self._started.spec.host_name(number) for number, node in enumerate(self, 1)}
        trust.establish(self, host_keys, self.directory, host_names=host_names)

    def _lan(self) -> Lan:
        if self._started.lan is None:
            raise FaultError(
                f"The cluster {self.name} has no LAN.",
                tip="start at least two nodes with lan=True, of a model that supports it",
            )
        self._started.lan.raise_if_dead()
        return self._started.lan

    @property
    def switch_is_gone(self) -> bool:
        """Whether the LAN's switch has ended while the cluster is up."""
        lan = self._started.lan
        return lan is not None and not self._down and not lan.alive

    def ssh_config(self) -> str:
        """Return the text of an OpenSSH configuration: ``ssh -F FILE pi-1`` opens a session on the first node."""
        return exports.ssh_config(self._logins())

    def inventory(self) -> str:
        """Return an Ansible inventory in YAML; its group ``pidoc`` contains all nodes.

        Each node has the variable ``lan_address``, if the cluster has a LAN. The fact ``ansible_default_ipv4`` is not
        that: it is the address through which Ansible reaches the node, and 10.0.2.15 on each of them.
        """
        return exports.inventory(self._logins(), {node.name: node.lan_address for node in self})

    def _logins(self) -> dict[str, Login]:
        return {member.vm.name: member.vm.login for member in self._started.members}

    def down(self) -> None:
        """End all nodes immediately and remove their files; calling it again does nothing."""
        if self._down:
            return
        self._down = True
        self._started.end()
        self._started.found.close()

    def keep(self) -> None:
        """Let the nodes outlive this process, until ``pidoc down``, and close the connections to them.

        Raises
        ------
        PidocError
            The cluster is down.
        """
        keep(self.directory)
        self._started.leave()
        self._owned = False
        self.close()

    def close(self) -> None:
        """Close the connections; the nodes keep running."""
        for node in self:
            node.close()
        self._started.found.close()

    @overload
    def __getitem__(self, index: int | str) -> Node: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Node]: ...

    def __getitem__(self, index: int | str | slice) -> Node | Sequence[Node]:
        if not isinstance(index, str):
            return self._started.nodes[index]
        for node in self:
            if node.name == index:
                return node
        raise KeyError(f"{shown(index)} is no node of {self.name}, which has {', '.join(node.name for node in self)}")

    def __len__(self) -> int:
        return len(self._started.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._started.nodes)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def __del__(self) -> None:
        if getattr(self, "_owned", False) and not self._down:
            warnings.warn(
                f"{self!r} was not ended; call down() or use a with block", ResourceWarning, source=self, stacklevel=1
            )

    def __reduce__(self) -> tuple[Callable[[Path], Cluster], tuple[Path]]:
        return Cluster.attach, (self.directory,)

    def __repr__(self) -> str:
        return f"<Cluster {self.name} {len(self)} x {self.spec.model} {'down' if self._down else 'up'}>"


def _names(group: Node | str | Sequence[Node | str]) -> list[str]:
    """Return the names of one node or of several; anything else is returned unchanged, for the check of names."""
    nodes = group if isinstance(group, (Sequence, Set)) and not isinstance(group, str) else (group,)
    return [node.name if isinstance(node, Node) else node for node in nodes]


def _attached(directory: Path, name: str) -> Node:
    """Return the node of that name; all nodes of a cluster that come to a process are of one object there."""
    if directory not in _ATTACHED:
        _ATTACHED[directory] = Cluster.attach(directory)
    return _ATTACHED[directory][name]


_ATTACHED: dict[Path, Cluster] = {}
copyreg.pickle(Node, lambda node: (_attached, (node.directory.parent, node.name)))
