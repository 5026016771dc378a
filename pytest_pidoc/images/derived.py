"""An image with some parts replaced: another kernel, initrd, device tree or more kernel arguments on any image.

It is an image of its own, under its own content address, so its users need not know that it is derived. Parts that
are not replaced are hard links to those of the image that it is derived from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_pidoc.images.fetch.source import FileSource, Member
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import Image, Manifest, Source
from pytest_pidoc.values.progress import Progress

__all__ = ["ROLES", "derive", "key"]

#: Bump when code changes what an image holds.
VERSION = 1

ROLES = ("kernel", "initrd", "dtb")


def key(base: Image, sums: Mapping[str, str], append: str) -> str:
    """Return the content address: SHA-256 over the base image's address and everything that replaces its parts.

    Parameters
    ----------
    base
        The image.
    sums
        What identifies each part, by its role; empty if the part is left out.
    append
        More kernel arguments.
    """
    parts = {"version": VERSION, "base": base.manifest.key, "files": dict(sums), "append": append}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def derive(
    cache: Cache,
    base: Image,
    parts: Mapping[str, FileSource | Member | None],
    append: str,
    *,
    progress: Progress,
    rebuild: bool = False,
) -> Image:
    """Return *base* with other parts; *base* itself if nothing is replaced.

    Parameters
    ----------
    cache
        Where it is kept.
    base
        An image in that cache.
    parts
        What replaces each part, by its role; ``None`` leaves the part out.
    append
        Kernel arguments to add.
    progress
        Is called with each step.
    rebuild
        Rebuild it even if the cache has it.

    Raises
    ------
    ImageError
        A part cannot be fetched or read, or the cache cannot be used.
    """
    if not parts and not append:
        return base
    sums = {role: source.identify(cache) if source else "" for role, source in parts.items()}

    def make(directory: Path, log: BuildLog) -> Manifest:
        # What is for one board, such as "initrd/board", is replaced too.
        files = {role: file for role, file in base.manifest.files.items() if role.partition("/")[0] not in parts}
        for file in files.values():
            _link(base.path / file.name, directory / file.name)
        sources = base.manifest.sources
        for role, source in parts.items():
            if source is None:
                continue
            progress.step(f"taking {source.name} as {role}")
            target = directory / f"own-{role}"
            source.put(target, cache, progress)
            files[role] = image_file(target)
            sources += (Source(source.name, "", files[role].sha256),)
        return replace(
            base.manifest,
            files=files,
            recipe=" ".join([base.manifest.recipe, *_described(parts), *([f"append={append}"] if append else [])]),
            append=" ".join(filter(None, (base.manifest.append, append))),
            sources=sources,
        )

    address = key(base, sums, append)
    return cache.build(address, make, what=f"{base} with other parts", progress=progress, rebuild=rebuild)


def _described(parts: Mapping[str, FileSource | Member | None]) -> list[str]:
    return [f"{role}={source.name if source else 'none'}" for role, source in parts.items()]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or with a limit on them
        shutil.copy2(source, target)
