"""Warm start: a machine is booted once and saved; nodes are forked from it in a fraction of a second.

A template is what was saved: the RAM in a file, which all forks map privately (pages that none of them writes are
shared), the state of the devices, and the disk. It is good only for the very same QEMU, machine and image, so all
of them are in its key, and it is kept in the cache beside the images.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_pidoc.engines.engine import Engine
from pytest_pidoc.errors import BootError
from pytest_pidoc.guest import agent
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import Image, Manifest, Source
from pytest_pidoc.lifecycle import saving
from pytest_pidoc.qemu import bootelf, devicetree, migration
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.values.files import BOOT_ELF
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.vm import firmware
from pytest_pidoc.vm.vm import Vm

__all__ = ["BASE", "Template", "image_booted", "key", "template"]

#: Bump when templates that were made before can no longer be used.
FORMAT = 4

BASE = "image"  # what stands for a version in the one source of a template: the image that it was booted from

QUIET_TIMEOUT = 120  # seconds until a guest must be idle


@dataclass(frozen=True)
class Template:
    """A saved machine, in the cache."""

    image: Image

    @property
    def path(self) -> Path:
        """The directory with the files ``ram``, ``state``, ``overlay.qcow2`` and ``serial.log``."""
        return self.image.path


def key(launch: Launch, engine: Engine) -> str:
    """Return the content address of the template that *launch* can be forked from.

    Parameters
    ----------
    launch
        Any node of the cluster: its names do not matter.
    engine
        What forks it: with another version of QEMU the template would be another.
    """
    nameless = replace(launch, name="pi", cluster="template", template=None, record=True, lan="", internet=True)
    parts = {
        "format": FORMAT,
        "qemu": engine.qemu_version(launch.machine.binary).text,
        "command": qemu.arguments(nameless, guest=Path("/guest"), forward="tcp:127.0.0.1:0"),
        "image": launch.image.manifest.content,  # its key would be that of another build of it, too
        "tree": hashlib.sha256(devicetree.tree(launch, engine) or b"").hexdigest(),
        "agent": hashlib.sha256(agent.PROGRAM.read_bytes()).hexdigest(),
        **({"boot files": script} if (script := firmware.script(launch)) else {}),  # most guests have none
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def image_booted(manifest: Manifest) -> str:
    """Return the content of the image that a template was booted from; nothing if *manifest* is no template's."""
    return next((source.sha256 for source in manifest.sources if source.version == BASE), "")


def template(
    cache: Cache,
    launch: Launch,
    engine: Engine,
    boot: Callable[[], AbstractContextManager[Vm]],
    *,
    progress: Progress,
    rebuild: bool = False,
) -> Template:
    """Return the template for *launch*; if it does not exist, make it.

    Parameters
    ----------
    cache
        Where it is kept.
    launch, engine
        What is to be forked, and what will run it.
    boot
        Boots a node with its RAM in a file, and ends it at the end of the block.
    progress
        Hears the steps.
    rebuild
        Make a new one in its place.

    Raises
    ------
    BootError
        The machine could not be booted, or its guest does not become idle.
    ImageError
        The cache cannot be used.
    """
    version = engine.qemu_version(launch.machine.binary)
    manifest = launch.image.manifest

    def make(directory: Path, log: BuildLog) -> Manifest:
        with boot() as vm:
            progress.step("waiting until the guest is idle, to save it")
            firmware.prepare(vm.launch, vm.shell)
            with saving.waiting_agent(vm):
                _require_quiet(vm)
                agent.hold_ssh(vm.shell, name=vm.name)
                vm.leave()
                time.sleep(saving.REST)
                migration.save(vm.directory, version)
            saving.collect(vm.directory, directory, log)
        parts = list(saving.PARTS)
        kernel, initrd = (launch.image.path / file.name if file else None for file in qemu.boot_files(launch))
        qemus_tree = "dtb" not in manifest.files  # with the board's name in it or not
        if launch.machine.ram is not None and qemus_tree and kernel and initrd and bootelf.can_hold(kernel):
            bootelf.write(directory / BOOT_ELF, kernel=kernel, initrd=initrd, ram=launch.machine.ram)
            parts.append(BOOT_ELF)
        return replace(
            manifest,
            recipe=f"{manifest.recipe} warm",
            files={name: image_file(directory / name) for name in parts},
            versions={**manifest.versions, "qemu": version.text},
            sources=(Source(manifest.recipe, BASE, manifest.content),),
        )

    what = f"the warm state of {manifest.recipe} on {launch.machine.name}"
    return Template(cache.build(key(launch, engine), make, what=what, progress=progress, rebuild=rebuild))


def _require_quiet(vm: Vm) -> None:
    """Wait until nothing happens in the guest any more."""
    if not saving.await_quiet(vm, QUIET_TIMEOUT):
        busy = vm.shell("top -b -n 1 | head -n 15").text
        raise BootError(f"The guest was not idle within {QUIET_TIMEOUT} s, so it cannot be saved.", evidence=busy)
