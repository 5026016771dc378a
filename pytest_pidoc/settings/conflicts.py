"""What cannot be had together: an argument that an engine, a model or an image would ignore is refused, and here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.settings.table import (
    DEFAULT_IMAGE_PASSWORD,
    DEFAULT_IMAGE_USER,
    IMAGES_OWN,
    MIB,
    NUMBER,
    REGISTRY_PREFIX,
)
from pytest_pidoc.values.checks import shown

__all__ = ["refuse"]

PARTS = ("kernel", "initrd", "dtb", "append")
ACCOUNT = {"image_user": DEFAULT_IMAGE_USER, "image_password": DEFAULT_IMAGE_PASSWORD}


def refuse(values: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse arguments of a cluster of which one would be ignored because of another.

    Parameters
    ----------
    values
        All arguments by their names, checked one by one before.
    given
        The names of those that the marker or the call itself has. The others come from the settings of the run, which
        may hold for nodes of all models: what only some of these can do is refused only if it is asked of the one.

    Raises
    ------
    SettingsError
        The message names the arguments, and what to change.
    """
    for what, tip in _conflicts(values, given):
        raise SettingsError(what, tip=tip)


def _conflicts(values: Mapping[str, Any], given: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and what to do."""
    from pytest_pidoc.machines import MODELS

    model, memory = MODELS[values["model"]], values["memory"]
    published = values["image"].startswith(REGISTRY_PREFIX)
    if model.fixed_memory and memory not in (None, model.memory):  # QEMU would refuse it after an image was built
        yield (
            f"memory: {memory // MIB}M is not supported by {model.name}, which has {model.memory // MIB}M like the"
            " board.",
            "leave memory out, or choose a -virt model",
        )
    for name in PARTS:
        if published and values[name]:  # its guest is inside of the container image
            yield (
                f"{name} cannot be given with the published image {values['image']}.",
                "use an image that is built on this host, such as debian:bookworm",
            )
    for name, default in ACCOUNT.items():
        has_user = published or values["image"].partition(":")[0] == "debian"
        if has_user and values[name] != default and (name in given or "image" not in given):
            yield (
                f"{name} cannot be given with the image {values['image']}, which has its user already.",
                f"leave {name} out, or use it with raspios or your own disk image",
            )
    if values["host_access"] and values["engine"] == "docker":
        yield (
            "host_access is not supported by the engine docker: 127.0.0.1 is there the container's own.",
            "use the engine local, or auto, which is local then, or leave host_access out",
        )
    if values["host_access"] and published:
        yield (
            f"host_access cannot be given with the published image {values['image']}, which runs on the engine docker.",
            "use an image that is built on this host, such as debian:bookworm, or leave host_access out",
        )
    if values["host_access"] and not values["internet"] and {"host_access", "internet"} <= set(given):
        yield (
            "host_access=True has no effect with internet=False, which keeps nodes from the host, too.",
            "leave one of them out",
        )
    if "announce_board" in given and values["announce_board"] and not (model.board or model.tree):
        yield (
            f"announce_board is not supported by {model.name}, which is no Raspberry Pi and has no name of one.",
            "leave announce_board out, or choose another model",
        )
    if "lan" in given and values["lan"] and values["nodes"] > 1 and not model.lan:
        yield (
            f"lan=True is not supported by {model.name}, which has no second network card.",
            "leave lan out, or choose another model",
        )
    if "prepare_files" in given and values["prepare_files"] and not values["prepare"]:
        yield ("prepare_files has no effect without prepare.", "add prepare, or leave prepare_files out")
    hostname = values["hostname"]
    if values["nodes"] > 1 and hostname != IMAGES_OWN and NUMBER not in hostname:  # copies of one SD card have one name
        yield (
            f"hostname: {values['nodes']} nodes cannot all be called {shown(hostname)}.",
            f'write {NUMBER} where each node\'s number should be: hostname="{hostname}-{NUMBER}"',
        )
