"""One attempt to start a cluster's nodes side by side: at its end all are ready, or nothing is left but the logs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from pytest_pidoc.errors import BootError, PidocError
from pytest_pidoc.guest.identity import Identity, LanPlace
from pytest_pidoc.host import records
from pytest_pidoc.images.store import usage
from pytest_pidoc.lan.lan import NETWORK, Lan, address
from pytest_pidoc.lifecycle import artifacts, capacity, facts, reaper
from pytest_pidoc.lifecycle.provision import Provision
from pytest_pidoc.lifecycle.record import ClusterRecord, NodeRecord
from pytest_pidoc.lifecycle.saved import Saved
from pytest_pidoc.machines import machine
from pytest_pidoc.node import Node
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu import devicetree, files
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.faults import FaultLog
from pytest_pidoc.values.files import DEVICE_TREE, SERIAL_LOG
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.bringup import Bringup
from pytest_pidoc.vm.vm import Vm

__all__ = ["Attempt", "Member", "Ownership", "Started", "keep_logs", "launch_of"]


@dataclass(frozen=True)
class Ownership:
    """Whose a cluster is.

    Attributes
    ----------
    owner
        The identity of the process with which the nodes end; ``None`` lets them outlive it.
    run
        The name of the test run whose processes share it; empty if nobody does.
    claim
        Called with the cluster's directory before any other process can know of it.
    """

    owner: str | None
    run: str = ""
    claim: Callable[[Path], object] = lambda directory: None


@dataclass(frozen=True)
class Member:
    """A node of a cluster, and the machine behind it."""

    node: Node
    vm: Vm


@dataclass(frozen=True)
class Started:
    """Nodes that run, and what watches over them.

    Attributes
    ----------
    directory
        The cluster's.
    spec, found
        What was asked for, and what it takes.
    members
        The nodes, in the order of their names.
    reaper
        The process that ends the nodes when their owner is gone; ``None`` if somebody else started them.
    lan
        What connects the nodes with each other; ``None`` if nothing does.
    switch
        The process that does; ``None`` if somebody else started it.
    """

    directory: Path
    spec: ClusterSpec
    found: Provision
    members: tuple[Member, ...]
    reaper: subprocess.Popen[bytes] | None = None
    lan: Lan | None = None
    switch: subprocess.Popen[bytes] | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order of their names."""
        return tuple(member.node for member in self.members)

    def leave(self) -> None:
        """Stop the reaper: the nodes no longer end with their owner."""
        _dismiss(self.reaper)

    def end(self) -> None:
        """End all nodes side by side and remove all their files; nothing happens if they have ended already."""
        with ThreadPoolExecutor(max_workers=max(1, len(self.members))) as pool:
            stops = [pool.submit(member.vm.stop) for member in self.members]
        for stop in stops:
            with _guarded(self.directory.name):
                stop.result()
        with _guarded(self.directory.name):
            reaper.reap(self.directory)
        _dismiss(self.reaper)
        _dismiss(self.switch)


def launch_of(spec: ClusterSpec, found: Provision, directory: Path, number: int) -> Launch:
    """Return the launch of a node of the cluster in *directory*; the first is number 1 and called ``pi-1``."""
    model, name = machine(spec.model), f"pi-{number}"
    return Launch(
        name=name,
        cluster=directory.name,
        directory=directory / name,
        machine=model,
        image=found.image,
        memory=spec.memory_per_node,
        cpus=spec.cpus,
        announce_board=spec.announce_board and bool(model.board),  # a board says so itself
        mips=spec.mips,
        # Alone it needs none, and a board's second card on USB costs it two seconds.
        lan=address(number) if spec.lan and spec.nodes > 1 and model.lan else "",
        internet=spec.internet,
        host_access=spec.host_access,
    )


class Attempt:
    """One attempt: at its end either all nodes are ready, or nothing is left but the logs."""

    def __init__(
        self,
        spec: ClusterSpec,
        settings: Settings,
        found: Provision,
        *,
        ownership: Ownership,
        saved: Saved | None = None,
        record: bool = False,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._found = found
        self._ownership = ownership
        self._saved = saved
        self._recorded = record
        self._faults = FaultLog()
        self._cancelled = threading.Event()
        self._memory = 0
        self._created = time.time()
        self._reaper: subprocess.Popen[bytes] | None = None
        self._switch: subprocess.Popen[bytes] | None = None
        self._lan: Lan | None = None
        self._futures: list[Future[Member]] = []
        self._held: list[int] = []
        self._holding = contextlib.ExitStack()

    def __enter__(self) -> Attempt:
        self._directory = records.new_directory()
        try:
            self._ownership.claim(self._directory)
            with capacity.booked(self._spec, overcommit=self._settings.overcommit) as self._memory:
                self._record(())
            images = [self._found.image.path, *([self._saved.path] if self._saved else [])]
            for image in images:  # from now on nobody removes them
                self._hold(usage.hold(self._settings.cache_dir, image))
            if self._ownership.owner is not None:
                self._reaper = reaper.start(self._directory, holding=self._held)
        except BaseException:
            self._holding.close()
            records.remove(self._directory)
            raise
        return self

    def _hold(self, descriptor: int | None) -> None:
        if descriptor is not None:
            self._held.append(descriptor)
            self._holding.callback(os.close, descriptor)

    def run(self, *, timeout: float, progress: Progress) -> Started:
        """Start the nodes side by side and wait until each is ready, for *timeout* seconds at most.

        Raises
        ------
        BootError
            One of them did not become ready.
        """
        began = time.monotonic()
        launches = [self._launch(number) for number in range(1, self._spec.nodes + 1)]
        for launch in launches:
            launch.directory.mkdir(mode=0o700)
        if any(launch.lan for launch in launches):
            self._lan, self._switch = Lan.start(self._directory, [launch.name for launch in launches])
        hosts = self._hosts(launches)
        pool = ThreadPoolExecutor(max_workers=self._spec.nodes, thread_name_prefix="pidoc-start")
        self._futures = [
            pool.submit(self._start_node, launch, self._identity(number, launch, hosts), began, timeout)
            for number, launch in enumerate(launches, 1)
        ]
        pool.shutdown(wait=False)
        for future in as_completed(self._futures):  # the first that failed raises here
            node = future.result().node
            progress.step(f"{node.name} is ready on {node.host}:{node.port} after {node.timings.ready:.1f} s")
        members = tuple(future.result() for future in self._futures)
        self._record(members)
        return Started(self._directory, self._spec, self._found, members, self._reaper, self._lan, self._switch)

    def _hosts(self, launches: Sequence[Launch]) -> dict[str, str]:
        """Return the nodes' addresses in the LAN by their host names and by their names."""
        hosts = {}
        for number, launch in enumerate(launches, 1):
            for name in filter(None, (self._spec.host_name(number), launch.name)):
                hosts[name] = launch.lan
        return hosts

    def _launch(self, number: int) -> Launch:
        launch = replace(launch_of(self._spec, self._found, self._directory, number), record=self._recorded)
        return self._saved.launch(launch) if self._saved else launch

    def _identity(self, number: int, launch: Launch, hosts: Mapping[str, str]) -> Identity:
        if launch.origin and launch.template is not None:
            return Identity.read(launch.template).reborn()
        mac_address, lan_mac_address = qemu.mac_address(launch), qemu.lan_mac_address(launch)
        place = LanPlace(lan_mac_address, f"{launch.lan}/{NETWORK.prefixlen}", hosts) if launch.lan else None
        return Identity.new(self._spec.host_name(number), mac_address, place)

    def _start_node(self, launch: Launch, identity: Identity, began: float, timeout: float) -> Member:
        with capacity.slot(self._cancelled.is_set):
            return self._start_one(launch, identity, began, Deadline(timeout))  # which the wait did not use up

    def _start_one(self, launch: Launch, identity: Identity, began: float, deadline: Deadline) -> Member:
        if launch.template is not None:  # what the guest printed before it was saved; QEMU appends to it
            (launch.directory / SERIAL_LOG).write_bytes((launch.template / SERIAL_LOG).read_bytes())
        files.lay_out(launch)
        if (tree := devicetree.tree(launch, self._found.engine)) is not None:
            (launch.directory / DEVICE_TREE).write_bytes(tree)
        if self._cancelled.is_set():
            raise BootError(f"The start of {launch.name} was cancelled.")
        identity.write(launch.directory)
        endpoint = self._found.engine.start(launch)
        vm = Vm(launch, self._found.engine, endpoint)
        bringup = Bringup(vm, identity=identity)
        try:
            bringup.come_up(began=began, deadline=deadline, cancelled=self._cancelled.is_set)
        except BaseException:
            vm.stop()
            raise
        return Member(Node(vm, bringup, faults=self._faults, lan=self._lan), vm)

    def _record(self, members: tuple[Member, ...]) -> None:
        ClusterRecord(
            self._directory,
            owner=self._ownership.owner,
            run=self._ownership.run,
            memory=self._memory,
            created=self._created,
            spec=self._spec,
            provision=self._found.to_record(),
            switch=None if self._lan is None else self._lan.handle,
            template=None if self._saved is None else self._saved.path,
            nodes=tuple(
                NodeRecord(member.vm.name, member.vm.endpoint, member.vm.host_keys, member.node.timings)
                for member in members
            ),
        ).write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holding.close()  # the reaper holds the images, and QEMU its disks
        if error is None:
            return
        self._cancelled.set()
        keep_logs(self._directory, self._spec, self._settings, error, lan=self._lan)
        with _guarded(self._directory.name):
            reaper.end_nodes(self._directory)  # unblocks whoever waits for an answer of a node
            wait(self._futures)
            for future in self._futures:
                if future.exception() is None:
                    future.result().vm.stop()
            reaper.reap(self._directory)
        _dismiss(self._reaper)
        _dismiss(self._switch)


def keep_logs(directory: Path, spec: ClusterSpec, settings: Settings, error: BaseException, *, lan: Lan | None) -> None:
    """Copy the logs of a cluster whose start has failed to where they outlive it, and let the error name that place."""
    if not directory.exists():
        return  # somebody took the cluster down while it started
    logs = (settings.artifacts or records.failed_directory()) / directory.name
    known = facts.of_cluster(directory, spec, switch_is_gone=lan is not None and not lan.alive)
    report = artifacts.Report("start", error=str(error), clusters=[known])
    with contextlib.suppress(OSError):  # the error itself matters more
        artifacts.keep([directory], logs, report)
        if isinstance(error, PidocError) and error.look:
            error.look = error.look.replace(str(directory), str(logs))


def _dismiss(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Let a step of taking down fail without keeping the next one from being done; say so as a warning."""
    try:
        yield
    except PidocError as error:
        warnings.warn(f"Cluster {name} could not be taken down completely: {error}", ResourceWarning, stacklevel=3)
