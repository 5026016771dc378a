"""Starting a cluster when there is memory for it: forked from a saved machine if possible, booted if not."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_pidoc.errors import BootError, ChecksumMismatch, ImageInUse, PidocError, RestoreFailed, SettingsError
from pytest_pidoc.host import processes, records
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.lifecycle import capacity, reaper, templates
from pytest_pidoc.lifecycle.attempt import Attempt, Ownership, Started, keep_logs, launch_of
from pytest_pidoc.lifecycle.prepare import Preparer
from pytest_pidoc.lifecycle.provision import Provision, provision
from pytest_pidoc.lifecycle.saved import Saved
from pytest_pidoc.machines import machine
from pytest_pidoc.qemu import speed
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.steps import running
from pytest_pidoc.steps.running import Prepared
from pytest_pidoc.steps.steps import Step
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.vm import Vm

__all__ = ["Starter", "start"]

#: What this process has prepared, so that ``--pidoc-prepare-again`` does not do it for every test.
_PREPARED_AGAIN: set[ClusterSpec] = set()


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
    present
        Makes of nodes that run the cluster that a step of its preparation gets.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        settings: Settings,
        ownership: Ownership,
        progress: Progress,
        *,
        present: Callable[[Started], Prepared],
    ) -> None:
        self._present = present
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
        started = start(
            self._spec,
            self._settings,
            self._provision(),
            ownership=self._ownership,
            progress=self._progress,
            present=self._present,
        )
        self._closing.pop_all()  # whoever ends the cluster closes what it takes
        return started

    def save(self) -> Path:
        """Prepare the cluster and save it, if it is not in the cache; return its directory there. No node runs on.

        Like `attempt`, it can be called again and again.

        Raises
        ------
        SettingsError
            Each start prepares such nodes anew.
        NoRoom
            There is not enough memory now.
        PrepareError
            A step of the preparation has failed. Nothing is left but the logs.
        EngineUnavailable, ImageError, BootError
            As for `Cluster.up`.
        """
        if reason := _never_saved(self._spec):
            raise SettingsError(
                f"Nodes cannot be prepared beforehand: {reason}, so each start prepares them anew.",
                tip="use a -virt model with start=warm, or leave prepare out here",
            )
        capacity.require(self._spec, overcommit=self._settings.overcommit)
        found = self._provision()
        with _full_disk_named():
            return _Nodes(self._spec, self._settings, found, self._ownership, self._progress, self._present).save()

    def _provision(self) -> Provision:
        if self._found is None:
            reaper.sweep()
            self._found = self._closing.enter_context(provision(self._spec, self._settings, self._progress))
        return self._found

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def start(
    spec: ClusterSpec,
    settings: Settings,
    found: Provision,
    *,
    ownership: Ownership,
    progress: Progress,
    present: Callable[[Started], Prepared],
) -> Started:
    """Start what *spec* asks for: forked from a template or a prepared cluster, or booted if that fails twice.

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
    present
        Makes of nodes that run the cluster that a step of its preparation gets.

    Raises
    ------
    PrepareError
        A step of the preparation has failed. Nothing is left but the logs.
    NoRoom
        The nodes do not fit into the host's memory beside those that run.
    BootError
        A node did not become ready, or the disk is full. Nothing is left but the logs, in the folder that the message
        names.
    """
    with _full_disk_named():
        return _Nodes(spec, settings, found, ownership, progress, present).start()


@dataclass(frozen=True)
class _Nodes:
    """The nodes that are to be started, and the ways to do it."""

    spec: ClusterSpec
    settings: Settings
    found: Provision
    ownership: Ownership
    progress: Progress
    present: Callable[[Started], Prepared]

    def start(self) -> Started:
        if not self.spec.prepare:
            return self.bare()
        running.require(self.spec.prepare)
        if reason := _never_saved(self.spec):
            if self.spec.start != "cold":
                warnings.warn(
                    f"{reason}, so each start prepares the nodes anew. A -virt model is prepared once.",
                    RuntimeWarning,
                    stacklevel=5,
                )
            return self.prepare_now()
        preparer = self._preparer()
        again = self.settings.prepare_again
        try:
            return self.fork(self.prepared(preparer, again=again))
        except (RestoreFailed, ChecksumMismatch) as error:
            self.progress.step(f"the prepared cluster cannot be used: {error.what}")
        try:
            return self.fork(self.prepared(preparer, again=True))
        except (RestoreFailed, ChecksumMismatch) as error:
            failure: PidocError = error
        warnings.warn(
            f"The prepared cluster cannot be forked, so it is prepared anew: {failure}", RuntimeWarning, stacklevel=5
        )
        return self.prepare_now()

    def save(self) -> Path:
        """Return the directory of the prepared cluster, made if it is not there."""
        running.require(self.spec.prepare)
        preparer = self._preparer()
        try:
            saved = self.prepared(preparer, again=self.settings.prepare_again)
        except (RestoreFailed, ChecksumMismatch) as error:
            self.progress.step(f"the saved machine cannot be used: {error.what}")
            self.rebuilt_template()
            saved = self.prepared(preparer, again=True)
        return saved.path

    def bare(self) -> Started:
        """Start the nodes as they are before any preparation."""
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
        warnings.warn(f"Warm start failed, falling back to a slower cold boot: {failure}", RuntimeWarning, stacklevel=6)
        return self.boot()

    def prepare_now(self) -> Started:
        """Start the nodes, and do all steps in them."""
        started = self.bare()
        with self._failing(started):
            for step in self.spec.prepare:
                self.run_step(step, started)
        return started

    def prepared(self, preparer: Preparer, *, again: bool) -> Saved:
        """Return the prepared cluster, made if it is not there; with *again*, once in this process in any case."""
        again = again and self.spec not in _PREPARED_AGAIN
        try:
            saved = preparer.prepared(self.template, again=again)
        except ImageInUse:
            saved = preparer.prepared(self.template)
        _PREPARED_AGAIN.add(self.spec)
        return saved

    def run_step(self, step: Step, started: Started) -> None:
        """Do a step of the preparation in nodes that run."""
        cluster = self.present(started)
        running.run(step, cluster, progress=self.progress)

    def _preparer(self) -> Preparer:
        return Preparer(
            self.spec,
            launch_of(self.spec, self.found, Path(), 1),
            self.found.engine,
            Cache(self.settings.cache_dir),
            fork=self._to_be_saved,
            run=self.run_step,
            progress=self.progress,
        )

    @contextlib.contextmanager
    def _to_be_saved(self, saved: Saved) -> Iterator[Started]:
        """Fork the nodes so that they can be saved, with the internet, and end them at the end of the block."""
        spec = replace(self.spec, cpus=None, internet=True)
        nodes = replace(self, spec=spec, ownership=Ownership(processes.own()))
        started = nodes.fork(saved, record=True)
        with self._failing(started):
            yield started
        started.end()

    @contextlib.contextmanager
    def _failing(self, started: Started) -> Iterator[None]:
        """End nodes that run if the block fails, and keep their logs."""
        try:
            yield
        except BaseException as error:
            keep_logs(started.directory, self.spec, self.settings, error, lan=started.lan)
            started.end()
            raise

    def fork(self, saved: Saved, *, record: bool = False) -> Started:
        """Fork the nodes from a template or a prepared cluster; with *record* so that they can be saved."""
        # No boot, so no probe: what makes forks slow is their number.
        timeout = self.spec.boot_timeout or speed.LEAST + speed.FORK * self.spec.nodes
        self.progress.step(f"starting {self}, {timeout:.0f} s at most")
        with self._attempt(saved=saved, record=record) as attempt:
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

    def template(self, *, rebuild: bool = False) -> Saved:
        """Return the template that the nodes are forked from, made if it is not there."""
        launch = launch_of(self.spec, self.found, Path(), 1)
        cache, engine = Cache(self.settings.cache_dir), self.found.engine
        made = templates.template(cache, launch, engine, self._one, progress=self.progress, rebuild=rebuild)
        return Saved(made.path)

    def rebuilt_template(self) -> Saved:
        """Return a new template, or the one that others' nodes run from."""
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

    def _attempt(self, *, saved: Saved | None = None, record: bool = False) -> Attempt:
        return Attempt(self.spec, self.settings, self.found, ownership=self.ownership, saved=saved, record=record)

    def __str__(self) -> str:
        return f"{self.spec.nodes} x {self.spec.model} on the engine {self.found.engine.name}"


def _never_saved(spec: ClusterSpec) -> str:
    """Return why a prepared cluster like this one is not saved; "" if it is."""
    if spec.start == "cold":
        return "start=cold boots each node"
    if machine(spec.model).plugs_network:
        return f"QEMU cannot save {spec.model} with its network card plugged in"
    return ""


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
