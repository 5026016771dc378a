"""The clusters of a test run: started when first needed, used again by later tests, shared between its processes.

A test gets a cluster by a lease: alone, or together with others that want to share. If none is free, another one is
started. If the host has too little memory for it, a cluster that nobody uses is ended, or the test waits. So there are
never more clusters of a kind than tests that used them at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import NoRoom, PidocError
from pytest_pidoc.host import processes, records
from pytest_pidoc.host.locks import locked
from pytest_pidoc.lifecycle import capacity, reaper
from pytest_pidoc.lifecycle.attempt import Ownership, Started
from pytest_pidoc.lifecycle.start import Starter
from pytest_pidoc.node import UP
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.testrun import failures, leases
from pytest_pidoc.testrun.leases import Lease
from pytest_pidoc.testrun.run import Run, reached_by, reap
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress

__all__ = ["ClusterPool"]

PATIENCE = 3600.0  # seconds to wait until other tests give a cluster back
HOLDING_PATIENCE = 120.0  # the same for a test that has nodes already, for which others may be waiting
LOOK_INTERVAL = 0.1
NARROWER = "let fixtures and tests end the nodes that they start earlier"


@dataclass
class _View:
    """What this process knows of a cluster of the run, and when it was like that."""

    cluster: Cluster
    seen: tuple[str, int]


class _Claim:
    """The lease on a cluster that is being started, taken before any other process knows of the cluster."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._lease: Lease | None = None

    def __call__(self, directory: Path) -> None:
        self.close()  # that of an attempt that failed
        self._lease = Lease.take(directory, self._user, shared=False)
        if self._lease is not None:
            self._lease.sign()

    def hand_over(self) -> Lease:
        """Return the lease to whoever closes it from now on."""
        if self._lease is None:
            raise PidocError(
                "Another process leased a cluster in the moment of its start.",
                tip="run the test again, and report it if it happens twice",
            )
        lease, self._lease = self._lease, None
        return lease

    def close(self) -> None:
        """Close the lease, unless it was handed over."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None


class ClusterPool:
    """What one process has of a run's clusters.

    Parameters
    ----------
    settings
        Where the cache and the evidence are, and what can be started.
    artifacts
        Where evidence is kept.
    run
        The run that it takes part in.
    """

    def __init__(self, settings: Settings, artifacts: Path, run: Run) -> None:
        self.artifacts = artifacts
        """Where evidence is kept."""
        self.kept: list[str] = []
        """How to reach the nodes that outlive the run, and how to end them."""
        self._settings = settings
        self._run = run
        self._views: dict[str, _View] = {}
        self._leases: dict[str, Lease] = {}
        self._private: list[Cluster] = []
        # Keeps a reference to each Popen, or Python warns of a process that still runs.
        self._left: list[Cluster] = []

    def get(self, spec: ClusterSpec, progress: Progress, *, user: str, shared: bool = False) -> Cluster:
        """Return a cluster of the run until it is given back.

        Parameters
        ----------
        spec
            What it is to be.
        progress
            Hears of the start, or of the wait.
        user
            For whom it is: a test's name.
        shared
            Whether others that want that too can use it at the same time.

        Raises
        ------
        NoRoom
            None is free, there is no memory for another, and that did not change in time.
        """
        claim = _Claim(user)
        ownership = Ownership(self._run.owner, self._run.name, claim)
        with contextlib.closing(claim), Starter(spec, self._settings, ownership, progress, present=Cluster) as starter:

            def attempt() -> Cluster:
                if not shared:
                    return self._free(spec, user, shared=False) or self._start(starter, claim, shared=False)
                with self._first_come(spec, progress):
                    return self._free(spec, user, shared=True) or self._start(starter, claim, shared=True)

            cluster = self._awaited(attempt, progress)
        cluster.progress = progress
        return cluster

    def start(
        self, spec: ClusterSpec, progress: Progress, *, user: str, kind: Callable[[Started], Cluster] = Cluster
    ) -> Cluster:
        """Start a cluster of some kind that nobody else uses; see `get` for what it takes and raises."""
        claim = _Claim(user)
        ownership = Ownership(processes.own(), claim=claim)
        with contextlib.closing(claim), Starter(spec, self._settings, ownership, progress, present=Cluster) as starter:
            cluster = self._awaited(lambda: kind(starter.attempt()), progress)
            self._private.append(cluster)
            self._leases[cluster.name] = claim.hand_over()
        cluster.progress = progress
        return cluster

    def give_back(self, cluster: Cluster) -> None:
        """Undo a cluster's faults and let others have it; end a private one, and one whose faults cannot be undone."""
        if cluster in self._private:
            self._private.remove(cluster)
            with self._leases.pop(cluster.name):
                cluster.down()
            return
        if errors := _undo_faults(cluster):
            leases.retire(cluster.directory)
            warnings.warn(
                f"{cluster.name} is not used again, since a fault cannot be undone: {errors[0]}",
                RuntimeWarning,
                stacklevel=2,
            )
        view, lease = self._views[cluster.name], self._leases.pop(cluster.name)
        view.seen = _state(lease)
        lease.close()
        if errors:
            self._end(cluster.directory)

    def keep(self, cluster: Cluster) -> None:
        """Let a cluster outlive the run as it is, with its faults; no other test gets it."""
        if cluster in self._private:
            self._private.remove(cluster)
        else:
            leases.retire(cluster.directory)
            del self._views[cluster.name]
        self._leases.pop(cluster.name).close()
        self._left.append(cluster)
        cluster.keep()
        self.kept += reached_by(cluster.directory, [node.name for node in cluster])

    def keep_all(self) -> None:
        """Let all clusters of the run outlive it, if it is this process's."""
        if self._run.is_own:
            self.kept += self._run.keep()

    def close(self) -> None:
        """End what is this process's own; of the others only the connections end."""
        for cluster in list(self._private):
            cluster.down()
        for lease in self._leases.values():
            lease.close()
        own = {record.directory.name for record in self._run.clusters()} if self._run.is_own else set()
        for name, view in self._views.items():
            if name in own:
                view.cluster.down()
            else:
                view.cluster.close()
                self._left.append(view.cluster)
        for started in (self._private, self._leases, self._views):
            started.clear()
        if self._run.is_own:
            reaper.reap_run(self._run.name, self._run.owner)

    def _free(self, spec: ClusterSpec, user: str, *, shared: bool) -> Cluster | None:
        """Take a lease on a cluster of the run that is as asked for and well, if there is one."""
        for record in self._run.clusters():
            directory = record.directory
            if record.spec != spec or directory.name in self._leases:
                continue
            lease = Lease.take(directory, user, shared=shared)
            if lease is None:
                continue
            if lease.is_torn or (cluster := self._attached(lease)) is None:
                leases.retire(directory)
                lease.close()
                self._end(directory)
                continue
            if not shared:
                lease.sign()
            self._leases[directory.name] = lease
            return cluster
        return None

    def _attached(self, lease: Lease) -> Cluster | None:
        """Return the cluster, unless a part of it has failed; attach again only if others have changed it."""
        name, seen = lease.directory.name, _state(lease)
        view = self._views.get(name)
        if view is None or view.seen != seen:
            if view is not None:
                view.cluster.close()
                self._left.append(view.cluster)
            view = self._views[name] = _View(Cluster.attach(lease.directory), seen)
        cluster = view.cluster
        if cluster.switch_is_gone or any(node.state != UP for node in cluster):
            return None
        return cluster

    def _start(self, starter: Starter, claim: _Claim, *, shared: bool) -> Cluster:
        """Start another cluster of the run, with a lease on it from the beginning."""
        cluster = Cluster(starter.attempt())
        lease = claim.hand_over()
        if shared:
            lease.share()
        self._leases[cluster.name], self._views[cluster.name] = lease, _View(cluster, _state(lease))
        return cluster

    def _awaited(self, attempt: Callable[[], Cluster], progress: Progress) -> Cluster:
        """Try until there is memory, which ending a cluster that nobody uses gives back."""
        patience = Deadline(HOLDING_PATIENCE if self._leases else PATIENCE, interval=LOOK_INTERVAL)
        try:
            return capacity.awaited(attempt, patience=patience, progress=progress, make_room=self._make_room)
        except NoRoom as error:
            used = (f"{each.name}: {', '.join(leases.users(each))}" for each in records.cluster_directories())
            evidence = "\n".join(line for line in used if not line.endswith(": "))
            tip = f"{NARROWER}, {error.tip}" if self._private else error.tip
            raise NoRoom(error.what, evidence=evidence, tip=tip, others=error.others) from None

    def _make_room(self) -> bool:
        """End the oldest cluster of the run that nobody uses; tell whether there was one."""
        found = (record.directory for record in self._run.clusters())
        return any(self._end(directory) for directory in found if directory.name not in self._leases)

    def _end(self, directory: Path) -> bool:
        """End a cluster of the run unless somebody uses it; tell whether it was ended."""
        lease = Lease.to_end(directory)
        if lease is None:
            return False
        with lease:
            failures.keep_after_crash("its process ended", [directory], self.artifacts)
            view = self._views.pop(directory.name, None)
            if view is not None:
                view.cluster.down()
            else:
                reap(directory)
        return True

    @contextlib.contextmanager
    def _first_come(self, spec: ClusterSpec, progress: Progress) -> Iterator[None]:
        """Let one process of the run at a time look for a cluster to share, and start it if there is none."""
        folder = records.root() / "shares"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Two hex digits, so that there are never many of these files; two specs with the same ones wait in vain.
        name = hashlib.sha256(json.dumps([self._run.name, spec.to_json()]).encode()).hexdigest()[:2]
        purpose = f"starting {spec.nodes} x {spec.model}"
        with locked(folder / f"{name}.lock", purpose=purpose, timeout=PATIENCE, progress=progress):
            yield


def _undo_faults(cluster: Cluster) -> list[Exception]:
    """Undo what the test that has ended did; return what went wrong with that."""
    errors = cluster.faults.undo_all()
    cluster.faults.clear()
    programs = [program for node in cluster for program in node.programs]
    for close in [*(each.stop for each in programs), *(each.close for node in cluster for each in node.forwards)]:
        try:
            close()
        except PidocError as error:
            errors.append(error)
    return errors


def _state(lease: Lease) -> tuple[str, int]:
    """Return what changes when somebody else has used the cluster alone, or has moved a node of it."""
    return lease.last, (lease.directory / records.RECORD).stat().st_mtime_ns
