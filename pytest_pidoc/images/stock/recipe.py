"""The ``raspios`` recipe: finds the Raspberry Pi OS image, or the user's own disk image, that a setting names.

`pytest_pidoc.images.stock.build` builds an image from it and changes only what is needed to reach it over SSH.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.fetch.source import FileSource
from pytest_pidoc.images.stock import build as stock
from pytest_pidoc.images.stock import ext4, fat
from pytest_pidoc.images.stock.accounts import DEFAULT
from pytest_pidoc.images.stock.build import Recipe
from pytest_pidoc.images.stock.first_boot import PATIENCE, Patience
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.images.store.image import Image, Manifest
from pytest_pidoc.images.store.tools import require_tools
from pytest_pidoc.machines import MODELS, Machine
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.progress import Progress

__all__ = ["PUBLISHED", "TOOLS", "build", "key", "recipe"]

#: Bump when code changes what an image holds.
VERSION = 3

#: Programs that a build runs, and the Debian packages that have them.
TOOLS = {
    **fat.TOOLS,
    **ext4.TOOLS,
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
}

_SITE = "https://downloads.raspberrypi.com"
#: Published images by the name after ``raspios:``, each with the SHA-256 that its publisher names.
PUBLISHED = {
    "bookworm-arm64": FileSource(
        f"{_SITE}/raspios_lite_arm64/images/raspios_lite_arm64-2025-05-13/2025-05-13-raspios-bookworm-arm64-lite.img.xz",
        "62d025b9bc7ca0e1facfec74ae56ac13978b6745c58177f081d39fbb8041ed45",
    ),
    "bookworm-armhf": FileSource(
        f"{_SITE}/raspios_lite_armhf/images/raspios_lite_armhf-2025-05-13/2025-05-13-raspios-bookworm-armhf-lite.img.xz",
        "a73d68b618c3ca40190c1aa04005a4dafcf32bc861c36c0d1fc6ddc48a370b6e",
    ),
    # pidoc's own. Plain http, as pidoc has it, is good enough for a file whose SHA-256 is checked.
    "buster": FileSource(
        "http://downloads.raspberrypi.org/raspbian_lite/images/raspbian_lite-2019-09-30/"
        "2019-09-26-raspbian-buster-lite.zip",
        "a50237c2f718bd8d806b96df5b9d2174ce8b789eda1f03434ed2213bbca6c6ff",
    ),
}


def recipe(text: str, model: str) -> Recipe:
    """Return the recipe that *text* names for a model.

    ``raspios`` is the published image for the model, ``raspios:buster`` one by its name, ``raspios:URL#sha256=HEX``
    any other; a path or a URL without ``raspios:`` means the same.

    Raises
    ------
    SettingsError
        It names no known image, or a URL without a SHA-256.
    """
    family, _, rest = text.partition(":")
    if family != "raspios":
        if not source.is_location(text):
            raise SettingsError(
                f"{shown(text)} is not a known image recipe.",
                tip="use raspios[:NAME], a path, or URL#sha256=<64 hex digits>",
            )
        found = source.parse(text, what="image")
        return Recipe(str(found), found)
    if source.is_location(rest):
        found = source.parse(rest, what="image")
        return Recipe(f"raspios:{found}", found)
    name = rest or _default(model)
    if name not in PUBLISHED:
        known = ", ".join(f"raspios:{each}" for each in PUBLISHED)
        raise SettingsError(
            f"{shown(text)} is not a known image.",
            tip=f"use one of raspios, {known}, raspios:PATH, or raspios:URL#sha256=HEX",
        )
    return Recipe(f"raspios:{name}", PUBLISHED[name])


def _default(model: str) -> str:
    if MODELS[model].archive:
        return "buster"  # for which that kernel was made
    # Raspberry Pi OS for 32 bits is made for ARMv6, so that it runs on every board.
    return "bookworm-arm64" if MODELS[model].architecture == "arm64" else "bookworm-armhf"


def key(cache: Cache, recipe: Recipe, machine: Machine) -> str:
    """Return the content address: SHA-256 over the disk image and everything that is added to it.

    A disk image on this host is hashed, unless it looks as it did the last time.

    Raises
    ------
    ImageError
        The disk image cannot be read.
    """
    donor = stock.donor_of(machine)
    parts = {
        "version": VERSION,
        "source": recipe.source.identify(cache),
        "kernel": debian.key(donor.recipe, donor.architecture),
        "machine": "" if stock.boots_donor(machine) else machine.name,  # those with Debian's kernel are all alike
        "least": stock.LEAST,
    }
    if recipe.account != DEFAULT:
        parts["account"] = dataclasses.astuple(recipe.account)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def build(
    cache: Cache,
    recipe: Recipe,
    machine: Machine,
    *,
    progress: Progress | None = None,
    rebuild: bool = False,
    patience: Patience = PATIENCE,
) -> Image:
    """Return the image of *recipe* for a model, building it if the cache does not have it.

    Raises
    ------
    DownloadError
        The disk image cannot be downloaded.
    ChecksumMismatch
        It has another SHA-256.
    ImageError
        It cannot be used on that model, a tool is missing, a step failed (the message names the log), or the disk
        is full. No half-built image is left, and the user's files are never written to.
    """
    progress = progress or Progress()

    def make(directory: Path, log: BuildLog) -> Manifest:
        require_tools(TOOLS)
        return stock.Build(cache, recipe, machine, directory, log, progress, patience).run()

    return cache.build(
        key(cache, recipe, machine), make, what=f"{recipe} for {machine.name}", progress=progress, rebuild=rebuild
    )
