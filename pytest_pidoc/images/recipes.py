"""From settings to an image: chooses the recipe that builds it, and replaces parts with the user's or the model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pytest_pidoc.errors import ImageError, SettingsError
from pytest_pidoc.images import derived
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.fetch.source import FileSource, Member
from pytest_pidoc.images.stock import recipe as raspios
from pytest_pidoc.images.stock.accounts import Account
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.machines import KernelArchive, machine
from pytest_pidoc.settings.spec import ClusterSpec
from pytest_pidoc.settings.table import NO_FILE, REGISTRY_PREFIX
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.progress import Progress

__all__ = ["build"]


def build(cache: Cache, spec: ClusterSpec, *, progress: Progress, rebuild: bool = False) -> Image:
    """Return the image that *spec* asks for, built if the cache does not have it.

    Raises
    ------
    SettingsError
        The recipe is unknown, or a part is neither a file nor a URL with its SHA-256.
    ImageError
        It cannot be built or trusted, or has no kernel.
    """
    own: dict[str, FileSource | Member | None] = {}
    if archive := machine(spec.model).archive:
        own.update(_parts(archive, spec.model))
    own.update({role: _part(role, text) for role in derived.ROLES if (text := getattr(spec, role))})
    address, build_base = _base(cache, spec)
    if own and (rebuild or cache.find(address) is None):
        for part in own.values():
            if part is not None:
                part.fetch(cache, progress)  # fails here rather than after an image was built
    base = build_base(progress=progress, rebuild=rebuild)
    image = derived.derive(cache, base, own, spec.append or "", progress=progress, rebuild=rebuild)
    if "kernel" not in image.manifest.files:
        raise ImageError(
            f"{spec.image} has no boot partition, so {spec.model} has no kernel to boot.",
            tip="set kernel=PATH or kernel=URL#sha256=HEX, or use a model whose name ends in -virt",
        )
    return image


def _base(cache: Cache, spec: ClusterSpec) -> tuple[str, Callable[..., Image]]:
    """Return the content address of the image without other parts, and what builds it."""
    model = machine(spec.model)
    family = spec.image.partition(":")[0]
    if family == "raspios" or (source.is_location(spec.image) and not spec.image.startswith(REGISTRY_PREFIX)):
        account = Account(spec.image_user, spec.image_password)
        disk = replace(raspios.recipe(spec.image, spec.model), account=account)
        return raspios.key(cache, disk, model), partial(raspios.build, cache, disk, model)
    if family == "debian":
        release = debian.recipe(spec.image)
        return debian.key(release, model.architecture), partial(debian.build, cache, release, model.architecture)
    if spec.image.startswith(REGISTRY_PREFIX):
        raise SettingsError(
            f"{shown(spec.image)} is a container image, which only the engine docker can run, not the engine local.",
            tip="start Docker and use --pidoc-engine=docker, or choose another image",
        )
    raise SettingsError(
        f"{shown(spec.image)} is not a known image.",
        tip="use debian, debian:bookworm, raspios, a path, URL#sha256=HEX, or docker://NAME:TAG on the engine docker",
    )


def _parts(archive: KernelArchive, model: str) -> dict[str, FileSource | Member | None]:
    """Return the parts of a model that boots its own kernel instead of the image's; that kernel needs no initrd."""
    place = source.parse(archive.place, what=f"the kernel of {model}")
    otherwise = (
        f"set kernel=PATH and dtb=PATH to a kernel for QEMU's machine {machine(model).machine} with built-in drivers"
    )
    return {
        "kernel": Member(place, archive.kernel, otherwise),
        "dtb": Member(place, archive.dtb, otherwise),
        "initrd": None,
    }


def _part(role: str, text: str) -> FileSource | None:
    if text == NO_FILE:
        return None
    part = source.parse(text, what=role)
    if part.path is not None and not part.path.exists():
        raise SettingsError(
            f"{role}={shown(text)}: there is no file {part.path} on the host.",
            tip=f"set {role} to the path of a file, by default below {Path.cwd()}, or to URL#sha256=HEX",
        )
    return part
