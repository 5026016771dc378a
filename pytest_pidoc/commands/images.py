"""The commands about images: ``build``, ``pull``, ``images``, ``prune``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.commands.clusters import known_records
from pytest_pidoc.commands.output import print_json, terminal_progress
from pytest_pidoc.errors import EngineUnavailable, SettingsError
from pytest_pidoc.host import processes
from pytest_pidoc.host import records as runtime
from pytest_pidoc.lifecycle import reaper
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.inputs import parse_size
from pytest_pidoc.values.text import duration, size, table

if TYPE_CHECKING:
    import docker

__all__ = ["build", "images", "prune", "pull"]


def build(options: argparse.Namespace, settings: Settings) -> int:
    """Build an image, and with ``--container`` a container image; with ``--prepare`` prepare a cluster, and save it."""
    from pytest_pidoc.lifecycle.provision import build_image

    progress = terminal_progress()
    if (options.base_image or options.tag) and not options.container:
        raise SettingsError("--base-image and --tag require --container.", tip="add --container pidoc")
    if options.prepare and options.container:
        raise SettingsError(
            "--container has no effect with --prepare: a container image has no prepared cluster.",
            tip="run pidoc build twice, once with each of them",
        )
    if settings.prepare and not options.container:
        if options.rebuild:
            build_image(settings.spec(), settings, progress, rebuild=True)
        print(_save_prepared(settings))
        return 0
    for name in options.without_effect:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise SettingsError(
                f"{option} has no effect on an image.", tip=f"leave {option} out, or add --prepare to prepare a cluster"
            )
    image = build_image(settings.spec(), settings, progress, rebuild=options.rebuild)
    print(image.path)
    if options.container:
        from pytest_pidoc.containers import build as container_image
        from pytest_pidoc.containers import daemon

        with contextlib.closing(daemon.connect()) as client:
            reference = container_image.build(
                client,
                image if options.container == "pidoc" else None,
                directory=settings.cache_dir / "containers",
                progress=progress,
                base_image=options.base_image or container_image.BASE_IMAGE,
            )
            if options.tag:
                container_image.tag(client, reference, options.tag)
        print(options.tag or reference)
    return 0


def pull(options: argparse.Namespace, settings: Settings) -> int:
    """Pull a published image."""
    from pytest_pidoc.containers import daemon, registry

    with contextlib.closing(daemon.connect()) as client:
        reference, image = registry.pull(
            client, options.image, directory=settings.cache_dir / "published", progress=terminal_progress(), again=True
        )
    print(f"{reference}: {image}")
    return 0


def images(options: argparse.Namespace, settings: Settings) -> int:
    """List the images in the cache, and our container images if a Docker daemon answers."""
    from pytest_pidoc.images.store import usage
    from pytest_pidoc.images.store.cache import Cache

    cache = Cache(settings.cache_dir)
    for path in cache.unreadable():
        print(f"pidoc: cannot read the manifest in {path}; run pidoc prune to remove it", file=sys.stderr)
    found: list[dict[str, Any]] = [
        {
            "recipe": image.manifest.recipe,
            "architecture": image.manifest.architecture,
            "key": image.manifest.key,
            "created": image.manifest.created,
            "used": usage.last_used(cache.root, image.path),
            "bytes": sum(file.size for file in image.manifest.files.values()),
            "path": str(image.path),
        }
        for image in cache.images()
    ]
    found += _container_images()
    if options.json:
        print_json(found)
    else:
        rows = [
            (
                *(_shortened(each["recipe"]), each["architecture"], str(each["key"])[:12], each["created"]),
                f"{duration(time.time() - each['used'])} ago" if each["used"] else "",
                size(each["bytes"]),
            )
            for each in found
        ]
        print(table(("recipe", "architecture", "key", "created", "used", "size"), rows))
    return 0


def prune(options: argparse.Namespace, settings: Settings) -> int:
    """Remove unused files: images, warm states, downloads, container images, logs of failed starts."""
    from pytest_pidoc.commands import pruning

    if options.days is not None and not 0 <= options.days < float("inf"):
        raise SettingsError(
            f"--days must be a number of days, 0 or more, not {options.days}.", tip="set --days to a number such as 30"
        )
    try:
        limit = None if options.size is None else parse_size(options.size)
    except ValueError as error:
        raise SettingsError(f"--size must be {error}, not {shown(options.size)}.") from None
    if not options.dry_run:
        reaper.sweep()
    known = known_records()
    used = {Path(record.provision["image"]) for record in known} | {each.template for each in known if each.template}
    removes, keeps = ("would remove", "would keep") if options.dry_run else ("removed", "kept")
    with _daemon() as client:
        items = pruning.in_cache(settings.cache_dir, used)
        before = pruning.occupied(items)
        others = [*(pruning.containers(client) if client else ()), *pruning.evidence(runtime.failed_directory())]
        age = None if options.days is None else options.days * 86400
        removed = set()
        for outcome in pruning.prune([*items, *others], now=time.time(), age=age, size=limit, dry_run=options.dry_run):
            print(f"{removes if outcome.removed else keeps:<8} {outcome.item.name}: {outcome.why}")
            if outcome.removed:
                removed.add(id(outcome.item))
    left = pruning.occupied([item for item in items if id(item) not in removed])
    frees = "would free" if options.dry_run else "freed"
    print(f"{frees} {size(before - left)} in {settings.cache_dir}; {size(left)} remain")
    return 0


def _save_prepared(settings: Settings) -> Path:
    """Prepare the cluster that the settings describe, as soon as there is memory for it; return where it is saved."""
    from pytest_pidoc.cluster import Cluster
    from pytest_pidoc.lifecycle import capacity
    from pytest_pidoc.lifecycle.attempt import Ownership
    from pytest_pidoc.lifecycle.start import Starter

    patience = Deadline(capacity.PATIENCE, interval=capacity.LOOK_INTERVAL)
    progress, ownership = terminal_progress(), Ownership(processes.own())
    with Starter(settings.spec(), settings, ownership, progress, present=Cluster) as starter:
        return capacity.awaited(starter.save, patience=patience, progress=progress)


def _shortened(recipe: str, width: int = 60) -> str:
    """Return a recipe shortened for a table: a URL with its SHA-256 is too long."""
    return recipe if len(recipe) <= width else f"{recipe[: width - 20]}...{recipe[-17:]}"


def _container_images() -> list[dict[str, Any]]:
    from datetime import datetime, timezone

    from pytest_pidoc.containers import stored

    with _daemon() as client:
        return [
            {
                "recipe": image.names[0] if image.names else image.kind,
                "architecture": "",
                "key": image.guest,
                "created": datetime.fromtimestamp(image.created, timezone.utc).isoformat(timespec="seconds"),
                "used": None,
                "bytes": image.size,
                "path": f"docker:{image.id}",
            }
            for image in (stored.stored(client) if client else ())
        ]


@contextlib.contextmanager
def _daemon() -> Iterator[docker.DockerClient | None]:
    """Connect to the Docker daemon; ``None`` if none answers."""
    from pytest_pidoc.containers import daemon

    with contextlib.ExitStack() as closing:
        client = None
        with contextlib.suppress(EngineUnavailable):
            client = closing.enter_context(contextlib.closing(daemon.connect()))
        yield client
