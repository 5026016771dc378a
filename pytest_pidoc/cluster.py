"""A cluster: some nodes that were started together, and are ended together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from pytest_pidoc import artifacts, processes, provision, reaper, runtime, speed
from pytest_pidoc.engines.engine import Endpoint, Engine, Launch
from pytest_pidoc.errors import BootError, PidocError
from pytest_pidoc.machines import machine
from pytest_pidoc.node import Node, Timings
from pytest_pidoc.progress import Progress
from pytest_pidoc.settings import ClusterSpec, Settings
from pytest_pidoc.waiting import Deadline

if TYPE_CHECKING:
    from fabric import GroupResult

__all__ = ["Cluster"]


class Cluster(Sequence[Node]):
    """A sequence of running nodes; `up` starts one, `attach` finds one that runs, `down` ends it.

    ::

        with Cluster.up(nodes=3, model="pi3-virt", engine="local") as cluster:
            print(cluster[0].run("uname -a").stdout)
    """

    def __init__(
        self,
        directory: Path,
        spec: ClusterSpec,
        nodes: Sequence[Node],
        found: provision.Provision,
        *,
        reaper_process: subprocess.Popen[bytes] | None = None,
        owned: bool = False,
    ) -> None:
        self.directory = directory
        """The cluster's directory, with one folder per node."""
        self.spec = spec
        """What was asked for."""
        self._nodes = tuple(nodes)
        self._found = found
        self._reaper = reaper_process
        self._owned = owned
        self._down = False

    @classmethod
    def up(
        cls,
        nodes: int | None = None,
        *,
        model: str | None = None,
        image: str | None = None,
        memory: int | str | None = None,
        cpus: float | None = None,
        engine: str | None = None,
        boot_timeout: float | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
        keep: bool = False,
    ) -> Cluster:
        """Start nodes side by side and return when a command has run over SSH on each of them.

        An image that is not there yet is built first, which takes minutes.

        Parameters
        ----------
        nodes, model, image, memory, cpus, engine, boot_timeout
            As in the marker; what is not given comes from *settings*. ``memory`` is in bytes or a text such as
            ``512M``, ``boot_timeout`` in seconds.
        settings
            By default those of the environment.
        progress
            Hears what is being done.
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
        BootError
            A node did not become ready. Nothing is left but the logs, in the folder that the message names.
        """
        settings = settings or Settings.load()
        asked = {
            "nodes": nodes,
            "model": model,
            "image": image,
            "memory": memory,
            "cpus": cpus,
            "engine": engine,
            "boot_timeout": boot_timeout,
        }
        return cls.from_spec(settings.spec(asked, where="Cluster.up"), settings, progress=progress, keep=keep)

    @classmethod
    def from_spec(
        cls, spec: ClusterSpec, settings: Settings, *, progress: Progress | None = None, keep: bool = False
    ) -> Cluster:
        """Start the cluster that *spec* describes; see `up`."""
        progress = progress or Progress()
        reaper.sweep()
        with contextlib.ExitStack() as closing:
            found = closing.enter_context(provision.provision(spec, settings, progress))
            timeout = spec.boot_timeout
            if timeout is None:
                timeout = speed.boot_timeout(machine(spec.model), spec.nodes, speed.probe(found.engine))
            progress.step(f"starting {spec.nodes} x {spec.model} (engine {found.engine.name}, {timeout:.0f} s at most)")
            owner = None if keep else processes.identify(os.getpid())
            start = closing.enter_context(_Start(spec, settings, found, owner=owner))
            cluster = start.run(cls, timeout=timeout, progress=progress)
            closing.pop_all()
        return cluster

    @classmethod
    def attach(cls, name: str | Path) -> Cluster:
        """Return a view of a running cluster, by its name or directory; whoever started it still owns it.

        Raises
        ------
        PidocError
            There is no such cluster.
        """
        directory = name if isinstance(name, Path) else runtime.root() / name
        record = runtime.read(directory)
        try:
            spec = ClusterSpec(**record["spec"])
            found = provision.Provision.from_record(record["provision"])
            nodes = []
            for entry in record["nodes"]:
                endpoint = Endpoint(**{**entry["endpoint"], "directory": Path(entry["endpoint"]["directory"])})
                launch = _launch(spec, found, directory, entry["name"])
                nodes.append(Node(launch, found.engine, endpoint, timings=Timings(**entry["timings"])))
        except (KeyError, TypeError) as error:
            raise PidocError(
                f"{directory / runtime.RECORD} is of another version: {error!r}.", tip="pidoc down"
            ) from error
        return cls(directory, spec, nodes, found)

    @property
    def name(self) -> str:
        """The cluster's name, unique on this machine: ``c-1f2e3d4c``."""
        return self.directory.name

    @property
    def engine(self) -> Engine:
        """What runs the nodes."""
        return self._found.engine

    @property
    def timings(self) -> Timings:
        """How the cluster started: of each time, the slowest node's."""
        each = [node.timings for node in self]
        return Timings(
            launched=max(timing.launched for timing in each),
            banner=max(timing.banner for timing in each),
            ready=max(timing.ready for timing in each),
            start=each[0].start,
        )

    def run(self, command: str, **kwargs: Any) -> GroupResult:
        """Run a shell command on all nodes at once; arguments as for ``fabric.Group.run``.

        Raises
        ------
        NodeDied
            A node ended before its command did.
        fabric.exceptions.GroupException
            The command failed on a node; ``result`` has what each node said.
        """
        from fabric import ThreadingGroup
        from fabric.exceptions import GroupException

        try:
            return ThreadingGroup.from_connections([node.connection for node in self]).run(command, **kwargs)
        except GroupException:
            for node in self:
                node.raise_if_dead(f"while it ran {command!r}")
            raise

    def ssh_config(self) -> str:
        """Return a configuration for ``ssh -F``: then ``ssh pi-1`` opens a session on the first node."""
        return "\n".join(
            f"Host {node.name}\n"
            f"  HostName {node.host}\n"
            f"  Port {node.port}\n"
            f"  User {node.user}\n"
            f'  IdentityFile "{node.private_key}"\n'
            f"  IdentitiesOnly yes\n"
            f'  UserKnownHostsFile "{node.known_hosts}"\n'
            f"  StrictHostKeyChecking yes\n"
            for node in self
        )

    def inventory(self) -> str:
        """Return an Ansible inventory in YAML: the nodes are the group ``pidoc``."""
        hosts: Mapping[str, Mapping[str, object]] = {
            node.name: {
                "ansible_host": node.host,
                "ansible_port": node.port,
                "ansible_user": node.user,
                "ansible_ssh_private_key_file": str(node.private_key),
                "ansible_ssh_common_args": (
                    f"-F none -o IdentitiesOnly=yes -o 'UserKnownHostsFile=\"{node.known_hosts}\"'"
                ),
                "ansible_python_interpreter": "/usr/bin/python3",
            }
            for node in self
        }
        lines = ["pidoc:", "  hosts:"]
        for name, variables in hosts.items():
            lines.append(f"    {name}:")
            lines += [f"      {key}: {json.dumps(value)}" for key, value in variables.items()]  # JSON is YAML
        return "\n".join(lines) + "\n"

    def down(self) -> None:
        """End all nodes at once and remove everything of theirs; it is no error when they are gone."""
        if self._down:
            return
        self._down = True
        with ThreadPoolExecutor(max_workers=max(1, len(self))) as pool:
            stops = [pool.submit(node.stop) for node in self]
        with _guarded(self.name):
            reaper.reap(self.directory)
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.wait()
        for stop in stops:
            with _guarded(self.name):
                stop.result()
        self._found.close()

    def close(self) -> None:
        """Close the connections; the nodes go on running."""
        for node in self:
            node.close()
        self._found.close()

    @overload
    def __getitem__(self, index: int) -> Node: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Node]: ...

    def __getitem__(self, index: int | slice) -> Node | Sequence[Node]:
        return self._nodes[index]

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def __del__(self) -> None:
        if getattr(self, "_owned", False) and not self._down:
            warnings.warn(f"{self!r} was never taken down", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<Cluster {self.name} {len(self)} x {self.spec.model} {'down' if self._down else 'up'}>"


class _Start:
    """One attempt to start a cluster: either it succeeds, or nothing is left but the logs."""

    def __init__(self, spec: ClusterSpec, settings: Settings, found: provision.Provision, *, owner: str | None) -> None:
        self._spec = spec
        self._found = found
        self._owner = owner
        self._settings = settings
        self._cancelled = threading.Event()
        self._reaper: subprocess.Popen[bytes] | None = None
        self._nodes: list[Node] = []
        self._futures: list[Future[Node]] = []

    def __enter__(self) -> _Start:
        self._directory = runtime.new_directory()
        try:
            self._record()
            if self._owner is not None:
                self._reaper = reaper.start(self._directory)
        except BaseException:
            runtime.remove(self._directory)
            raise
        return self

    def run(self, kind: type[Cluster], *, timeout: float, progress: Progress) -> Cluster:
        started, deadline = time.monotonic(), Deadline(timeout)
        pool = ThreadPoolExecutor(max_workers=self._spec.nodes, thread_name_prefix="pidoc-start")
        names = [f"pi-{number}" for number in range(1, self._spec.nodes + 1)]
        self._futures = [pool.submit(self._start_node, name, started, deadline) for name in names]
        pool.shutdown(wait=False)
        for future in as_completed(self._futures):  # the first that failed raises here
            node = future.result()
            progress.step(f"{node.name} is ready on {node.host}:{node.port} after {node.timings.ready:.1f} s")
        self._nodes = [future.result() for future in self._futures]
        self._record()
        return kind(
            self._directory,
            self._spec,
            self._nodes,
            self._found,
            reaper_process=self._reaper,
            owned=self._owner is not None,
        )

    def _start_node(self, name: str, started: float, deadline: Deadline) -> Node:
        engine: Engine = self._found.engine
        launch = _launch(self._spec, self._found, self._directory, name)
        launch.directory.mkdir(mode=0o700)
        if self._cancelled.is_set():
            raise BootError(f"The start of {name} was cancelled.")
        node = Node(launch, engine, engine.start(launch))
        try:
            node.await_ready(started=started, deadline=deadline, cancelled=self._cancelled.is_set)
        except BaseException:
            node.stop()
            raise
        return node

    def _record(self) -> None:
        runtime.write(
            self._directory,
            {
                "name": self._directory.name,
                "owner": self._owner,
                "created": time.time(),
                "engine": self._found.engine.name,
                "spec": dataclasses.asdict(self._spec),
                "provision": self._found.to_record(),
                "nodes": [
                    {
                        "name": node.name,
                        "endpoint": {
                            **dataclasses.asdict(node.endpoint),
                            "directory": str(node.endpoint.directory),
                        },
                        "timings": dataclasses.asdict(node.timings),
                    }
                    for node in self._nodes
                ],
            },
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        self._cancelled.set()
        logs = (self._settings.artifacts or runtime.failed_directory()) / self._directory.name
        artifacts.keep((path for path in self._directory.iterdir() if path.is_dir()), logs)
        if isinstance(error, PidocError) and error.look:
            error.look = error.look.replace(str(self._directory), str(logs))
        with _guarded(self._directory.name):
            reaper.end_nodes(self._directory)  # unblocks whoever waits for an answer of a node
            wait(self._futures)
            for future in self._futures:
                if future.exception() is None:
                    future.result().stop()
            reaper.reap(self._directory)
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.wait()


def _launch(spec: ClusterSpec, found: provision.Provision, directory: Path, name: str) -> Launch:
    model = machine(spec.model)
    return Launch(
        name=name,
        cluster=directory.name,
        directory=directory / name,
        machine=model,
        image=found.image,
        memory=spec.memory or model.memory,
        cpus=spec.cpus,
    )


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Let a step of taking down fail without keeping the next one from being done; say so as a warning."""
    try:
        yield
    except PidocError as error:
        warnings.warn(f"Cluster {name} could not be taken down completely: {error}", ResourceWarning, stacklevel=3)
