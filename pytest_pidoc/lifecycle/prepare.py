"""Prepared clusters: set up once by the user's own steps, saved as a whole, and forked for each test.

Each step is a saved cluster of its own, made from the one before it, so that changing the last step does not repeat the
first. All nodes are stopped before the first is saved. A packet that is under way then is lost as in any network, and
no node has received what another has not sent yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_pidoc.engines.engine import Engine
from pytest_pidoc.errors import ChecksumMismatch, NodeDied, PrepareError
from pytest_pidoc.guest import identity
from pytest_pidoc.guest.output import answer, answering
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import IDENTITY, Cache, image_file
from pytest_pidoc.images.store.image import ImageFile, Manifest, Source
from pytest_pidoc.lifecycle import saving, templates
from pytest_pidoc.lifecycle.attempt import Started
from pytest_pidoc.lifecycle.saved import ORIGIN, Saved
from pytest_pidoc.qemu import migration
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.settings.spec import ClusterSpec
from pytest_pidoc.steps import steps
from pytest_pidoc.steps.steps import Step
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import BOOT_ELF
from pytest_pidoc.values.parallel import side_by_side
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm.vm import Unanswered, Vm

__all__ = ["Preparer", "key"]

#: Bump when clusters that were saved before can no longer be used.
FORMAT = 1

QUIET_TIMEOUT = 30.0  # seconds until nodes may be saved although their programs are busy
SETTLE_TIMEOUT = 300.0  # seconds until a guest that restarts is up again
LEAST_SPACE = 2048  # KiB on the disk that the agent needs


def key(spec: ClusterSpec, launch: Launch, engine: Engine, digests: Sequence[str]) -> str:
    """Return the content address of the cluster after some steps.

    Parameters
    ----------
    spec, launch
        What the cluster is asked to be, and any of its nodes.
    engine
        What forks it.
    digests
        What the steps do, in their order: see `pytest_pidoc.steps.steps.digests`.
    """
    parts = {
        "format": FORMAT,
        "machine": templates.key(launch, engine),
        "nodes": spec.nodes,
        "hostname": spec.hostname,
        "lan": spec.lan,
        "steps": list(digests),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Preparer:
    """Prepares clusters, and keeps them in the cache.

    Attributes
    ----------
    spec
        What the cluster is asked to be.
    launch
        Any of its nodes.
    engine, cache
        What runs it, and where it is kept.
    fork
        Starts the cluster from what is given, so that it can be saved, and ends it at the end of the block.
    run
        Does a step in a cluster.
    progress
        Hears the steps.
    """

    spec: ClusterSpec
    launch: Launch
    engine: Engine
    cache: Cache
    fork: Callable[[Saved], AbstractContextManager[Started]]
    run: Callable[[Step, Started], None]
    progress: Progress

    def prepared(self, machine: Callable[[], Saved], *, again: bool = False) -> Saved:
        """Return the cluster after all steps; those that are not in the cache are done.

        Parameters
        ----------
        machine
            Returns the saved machine that the nodes are forked from before the first step.
        again
            Do all steps again, and replace what is in the cache.

        Raises
        ------
        PrepareError
            A step has failed, or the nodes cannot be saved after it.
        BootError
            The nodes could not be started.
        ImageError
            The cache cannot be used.
        ImageInUse
            It would be replaced, but nodes run from it.
        """
        digests = steps.digests(self.spec.prepare, self.spec.prepare_files)
        return self._after(len(digests), digests, machine, again=again)

    def _after(self, done: int, digests: Sequence[str], machine: Callable[[], Saved], *, again: bool) -> Saved:
        """Return the cluster after the first *done* steps."""
        if done == 0:
            return machine()
        address = key(self.spec, self.launch, self.engine, digests[:done])
        if not again:
            with contextlib.suppress(ChecksumMismatch):  # whoever builds it finds that, too
                if image := self.cache.find(address):
                    return Saved(image.path)
        step = self.spec.prepare[done - 1]

        def make(directory: Path, log: BuildLog) -> Manifest:
            with self.fork(self._after(done - 1, digests, machine, again=again)) as started:
                self.run(step, started)
                self._require_same(done - 1, digests)
                return self._save(started, directory, log, self.spec.prepare[:done])

        def build(*, rebuild: bool) -> Saved:
            what = f"{self.spec.nodes} x {self.spec.model} after {step.name}"
            return Saved(self.cache.build(address, make, what=what, progress=self.progress, rebuild=rebuild).path)

        try:
            return build(rebuild=again)
        except ChecksumMismatch as error:
            self.progress.step(f"the saved cluster cannot be used: {error.what}")
            return build(rebuild=True)

    def _require_same(self, number: int, digests: Sequence[str]) -> None:
        """Refuse to save what one version of a step has done under the name of another."""
        if steps.digests(self.spec.prepare, self.spec.prepare_files)[number] != digests[number]:
            raise PrepareError(
                f"{self.spec.prepare[number].name} was changed while it ran, so what it did is not saved.",
                tip="run the tests again",
            )

    def _save(self, started: Started, directory: Path, log: BuildLog, done: Sequence[Step]) -> Manifest:
        """Save all nodes of a cluster, which cannot be used afterwards."""
        vms = [member.vm for member in started.members]
        names = ", ".join(step.name for step in done)
        self.progress.step(f"saving {self.spec.nodes} x {self.spec.model} after {names}")
        if errors := started.nodes[0].faults.undo_all():
            raise PrepareError(f"A fault that {done[-1].name} injected cannot be undone.", evidence=str(errors[0]))
        version = self.engine.qemu_version(self.launch.machine.binary)
        with contextlib.ExitStack() as agents:
            side_by_side(lambda vm: _settle(vm, done[-1].name), vms)
            side_by_side(lambda vm: agents.enter_context(saving.waiting_agent(vm)), vms)
            side_by_side(lambda vm: saving.await_quiet(vm, QUIET_TIMEOUT), vms)
            for vm in vms:
                vm.leave()
            time.sleep(saving.REST)
            side_by_side(lambda vm: migration.pause(vm.directory), vms)
            side_by_side(lambda vm: migration.save(vm.directory, version), vms)
        files: dict[str, ImageFile] = {}
        for vm in vms:
            files.update(_collect(vm, directory / vm.name, log))
        launch = vms[0].launch
        (directory / ORIGIN).write_text(launch.origin or launch.cluster, encoding="ascii")
        files[ORIGIN] = image_file(directory / ORIGIN)
        manifest = launch.image.manifest
        return replace(
            manifest,
            recipe=f"{manifest.recipe} after {names}",
            files=files,
            versions={**manifest.versions, "qemu": version.text},
            sources=(Source(manifest.recipe, templates.BASE, manifest.content),),
        )


def _settle(vm: Vm, after: str) -> None:
    """Wait until a guest that restarts is up again, and see that the machine can be saved."""
    deadline = Deadline(SETTLE_TIMEOUT, interval=0.5)
    while (free := _free_space(vm, after, timeout=deadline.remaining)) is None:
        if deadline.expired:
            raise PrepareError(
                f"{vm.name} does not answer after {after}, so it cannot be saved.",
                **vm.evidence(),
                tip="let the last step wait until the node is ready again, by wait_for_reboot() or wait_for_unit()",
            )
        deadline.pause()
    if free < LEAST_SPACE:
        raise PrepareError(
            f"The disk of {vm.name} is full after {after} ({free} KiB are free), so it cannot be saved.",
            evidence=vm.ask("df -h .").stdout,
            tip=f"let the step leave some space, or use an image with a larger disk; {LEAST_SPACE} KiB are needed",
        )


def _free_space(vm: Vm, after: str, *, timeout: float) -> int | None:
    """Return the free space on the disk in KiB; ``None`` while the guest starts, ends or does not answer."""
    if vm.off or vm.death():
        raise PrepareError(
            f"{vm.name} is {vm.off or f'off ({vm.death()})'}, so it cannot be saved after {after}.",
            **vm.evidence(),
            tip="let the last step leave all nodes running",
        )
    ask = "state=$(systemctl is-system-running --wait); df --output=avail -k . | tail -n 1; echo $state"
    try:
        vm.attend()
        said = answer(vm.ask(answering(ask), timeout=timeout).stdout) or ""
    except (Unanswered, NodeDied):  # the next look says how it died
        return None
    free, *state = said.split() or ["0", "stopping"]
    return None if state == ["stopping"] else int(free)


def _collect(vm: Vm, directory: Path, log: BuildLog) -> Iterator[tuple[str, ImageFile]]:
    """Copy what was saved of a node, and yield its files by their roles."""
    directory.mkdir(mode=0o700)
    saving.collect(vm.directory, directory, log)
    shutil.copyfile(vm.directory / identity.FILE, directory / identity.FILE)
    names = {name: name for name in saving.PARTS} | {IDENTITY: identity.FILE}
    if vm.launch.template is not None and (boot := vm.launch.template / BOOT_ELF).exists():
        _link(boot, directory / BOOT_ELF)
        names[BOOT_ELF] = BOOT_ELF
    for role, name in names.items():
        yield f"{vm.name}/{role}", replace(image_file(directory / name), name=f"{vm.name}/{name}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or with a limit on them
        shutil.copy2(source, target)
