"""Starting a cluster when there is memory for it: forked from a saved machine if possible, booted if not."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_pidoc.errors import BootError, ChecksumMismatch, ImageInUse, PidocError, RestoreFailed
from pytest_pidoc.host import processes, records
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.lifecycle import capacity, reaper, templates
from pytest_pidoc.lifecycle.attempt import Attempt, Ownership, Started, launch_of
from pytest_pidoc.lifecycle.provision import Provision, provision
from pytest_pidoc.machines import machine
from pytest_pidoc.qemu import speed
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.vm import Vm

__all__ = ["Starter", "start"]


class Starter:
    """Starts one cluster, as soon as there is memory for it; a context manager that leaves nothing open.

    Parameters
    ----------
    spec
        What is asked for.
    settings
        Where the cache and the evidence are.
    ownership
        Whose the cluster is.
    progress
        Hears the steps.
    """

    def __init__(self, spec: ClusterSpec, settings: Settings, ownership: Ownership, progress: Progress) -> None:
        self._spec = spec
        self._settings = settings
        self._ownership = ownership
        self._progress = progress
        self._found: Provision | None = None
        self._closing = contextlib.ExitStack()

    def attempt(self) -> Started:
        """Start the nodes now.

        Without memory for them it only reads the records of what runs, so it can be called again and again; what the
        nodes take is found once.

        Raises
        ------
        NoRoom
            There is not enough memory now.
        SettingsError, EngineUnavailable, ImageError, BootError
            As for `Cluster.up`.
        """
        capacity.require(self._spec, overcommit=self._settings.overcommit)
        if self._found is None:
            reaper.sweep()
            self._found = self._closing.enter_context(provision(self._spec, self._settings, self._progress))
        started = start(self._spec, self._settings, self._found, ownership=self._ownership, progress=self._progress)
        self._closing.pop_all()  # whoever ends the cluster closes what it takes
        return started

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def start(
    spec: ClusterSpec, settings: Settings, found: Provision, *, ownership: Ownership, progress: Progress
) -> Started:
    """Start what *spec* asks for: forked from a template, or booted if that fails twice.

    In between the template is rebuilt, unless others' nodes run from it: then it is not the template that is broken.

    Parameters
    ----------
    spec, found
        What is asked for, and what it takes.
    settings
        Where the cache and the evidence are.
    ownership
        Whose the cluster is.
    progress
        Hears the steps.

    Raises
    ------
    NoRoom
        The nodes do not fit into the host's memory beside those that run.
    BootError
        A node did not become ready, or the disk is full. Nothing is left but the logs, in the folder that the message
        names.
    """
    with _full_disk_named():
        return _Nodes(spec, settings, found, ownership, progress).start()


@dataclass(frozen=True)
class _Nodes:
    """The nodes that are to be started, and the ways to do it."""

    spec: ClusterSpec
    settings: Settings
    found: Provision
    ownership: Ownership
    progress: Progress

    def start(self) -> Started:
        if self.spec.start == "cold":
            return self.boot()
        try:
            return self.fork(self.template())
        except (RestoreFailed, ChecksumMismatch) as error:
            self.progress.step(f"the saved machine cannot be used: {error.what}")
        try:
            return self.fork(self.rebuilt_template())
        except (RestoreFailed, ChecksumMismatch) as error:
            failure: PidocError = error
        self.progress.step(f"the saved machine cannot be used: {failure.what}")
        warnings.warn(f"Warm start failed, falling back to a slower cold boot: {failure}", RuntimeWarning, stacklevel=5)
        return self.boot()

    def fork(self, template: Path) -> Started:
        """Fork the nodes from a template."""
        # No boot, so no probe: what makes forks slow is their number.
        timeout = self.spec.boot_timeout or speed.LEAST + speed.FORK * self.spec.nodes
        self.progress.step(f"starting {self}, {timeout:.0f} s at most")
        with self._attempt(template=template) as attempt:
            return attempt.run(timeout=timeout, progress=self.progress)

    def boot(self, *, record: bool = False) -> Started:
        """Boot the nodes; with *record* so that they can be saved."""
        timeout = self.spec.boot_timeout
        if timeout is None:
            probed, stock = speed.probe(self.found.engine), self.found.image.manifest.stock
            timeout = speed.boot_timeout(machine(self.spec.model), self.spec.nodes, probed, stock=stock)
        self.progress.step(f"booting {self}, {timeout:.0f} s at most")
        with self._attempt(record=record) as attempt:
            return attempt.run(timeout=timeout, progress=self.progress)

    def template(self, *, rebuild: bool = False) -> Path:
        """Return the directory of the template that the nodes are forked from, made if it is not there."""
        launch = launch_of(self.spec, self.found, Path(), 1)
        cache, engine = Cache(self.settings.cache_dir), self.found.engine
        made = templates.template(cache, launch, engine, self._one, progress=self.progress, rebuild=rebuild)
        return made.path

    def rebuilt_template(self) -> Path:
        """Return the directory of a new template, or of the one that others' nodes run from."""
        try:
            return self.template(rebuild=True)
        except ImageInUse:
            return self.template()

    @contextlib.contextmanager
    def _one(self) -> Iterator[Vm]:
        """Boot the one machine that is to be saved."""
        self.progress.step(f"booting {self.spec.model} once, to save it: nodes are then forked from it")
        spec = replace(self.spec, nodes=1, cpus=None, boot_timeout=None, lan=False)
        started = replace(self, spec=spec, ownership=Ownership(processes.own())).boot(record=True)
        try:
            yield started.members[0].vm
        finally:
            started.end()

    def _attempt(self, *, template: Path | None = None, record: bool = False) -> Attempt:
        return Attempt(self.spec, self.settings, self.found, ownership=self.ownership, template=template, record=record)

    def __str__(self) -> str:
        return f"{self.spec.nodes} x {self.spec.model} on the engine {self.found.engine.name}"


@contextlib.contextmanager
def _full_disk_named() -> Iterator[None]:
    """Turn what a full temporary directory gives into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BootError(
            f"The nodes' files cannot be written: {error.strerror} ({error.filename or records.root()}).",
            tip="free some disk space there, or set TMPDIR to another directory",
        ) from error
