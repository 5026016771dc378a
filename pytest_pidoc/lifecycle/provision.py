"""From what was asked for to what it takes: an engine that can be used here, and an image that it can boot."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_pidoc.containers import registry
from pytest_pidoc.engines import availability
from pytest_pidoc.engines.choose import choose
from pytest_pidoc.engines.engine import Engine
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.images import recipes
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.machines import Machine, machine
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.settings.table import REGISTRY_PREFIX
from pytest_pidoc.values.progress import Progress

__all__ = ["Provision", "build_image", "provision"]


@dataclass(frozen=True)
class Provision:
    """An engine and an image for it; close it when no node needs it any more.

    Attributes
    ----------
    image
        What nodes boot from.
    engine
        What starts them.
    reference
        The container image that the engine ``docker`` uses.
    """

    image: Image
    engine: Engine
    reference: str = ""
    _closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False, repr=False)

    def close(self) -> None:
        """Close the connection to the daemon, if there is one."""
        self._closing.close()

    def __enter__(self) -> Provision:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to_record(self) -> dict[str, str]:
        """Return what another process needs to have the same."""
        return {"engine": self.engine.name, "image": str(self.image.path), "reference": self.reference}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Provision:
        """Return the provision that `to_record` described.

        Raises
        ------
        EngineUnavailable
            The daemon does not answer.
        ImageError
            The image is gone.
        """
        image = Image.read(Path(record["image"]))
        if record["engine"] == "local":
            return cls(image, LocalEngine())
        return _on_docker(image, record["reference"])


def provision(spec: ClusterSpec, settings: Settings, progress: Progress) -> Provision:
    """Return an engine and an image for *spec*, building or pulling what is not there.

    Raises
    ------
    SettingsError
        There is no such recipe, or it cannot be used with those parts.
    EngineUnavailable
        There is no engine that could be used, or its QEMU does not have the model.
    ImageError
        The image cannot be built, pulled or trusted.
    """
    engine = choose(spec.engine, host_access=spec.host_access)
    if engine == "local":
        local = LocalEngine()
        availability.require(machine(spec.model), local)  # before an image is built in vain
        return Provision(build_image(spec, settings, progress), local)

    from pytest_pidoc.containers import build as container_image
    from pytest_pidoc.containers import daemon

    with contextlib.closing(daemon.connect()) as client:
        if spec.image.startswith(REGISTRY_PREFIX):
            reference, image = registry.pull(
                client, spec.image, directory=settings.cache_dir / "published", progress=progress
            )
        else:
            image = build_image(spec, settings, progress)
            reference = container_image.build(client, directory=settings.cache_dir / "containers", progress=progress)
    return _on_docker(image, reference, machine(spec.model))


def build_image(spec: ClusterSpec, settings: Settings, progress: Progress, *, rebuild: bool = False) -> Image:
    """Return the image that *spec* asks for, built on the host if it is not in the cache.

    Raises
    ------
    SettingsError
        There is no such recipe, or it cannot be used with those parts.
    ImageError
        It cannot be built or trusted.
    """
    return recipes.build(Cache(settings.cache_dir), spec, progress=progress, rebuild=rebuild)


def _on_docker(image: Image, reference: str, model: Machine | None = None) -> Provision:
    """Return the engine for that container image; *model* is one that it must be able to start."""
    from pytest_pidoc.containers import daemon
    from pytest_pidoc.engines.docker import DockerEngine

    with contextlib.ExitStack() as closing:
        client = closing.enter_context(contextlib.closing(daemon.connect()))
        engine = DockerEngine(client, reference)
        if model is not None:
            availability.require(model, engine)
        return Provision(image, engine, reference, closing.pop_all())
