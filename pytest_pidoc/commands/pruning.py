"""What takes disk space, and what can be removed: by age, by size, and never what is in use."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.containers import stored
from pytest_pidoc.errors import ImageError, ImageInUse, PidocError
from pytest_pidoc.images.fetch import download
from pytest_pidoc.images.store import usage
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.lifecycle import artifacts, templates
from pytest_pidoc.values.text import duration

if TYPE_CHECKING:
    import docker

__all__ = ["Item", "Outcome", "containers", "evidence", "in_cache", "occupied", "prune"]

#: The bytes that files take on the disk, by device and inode: those of a derived image are links to another one's.
Blocks = dict[tuple[int, int], int]


@dataclass(frozen=True)
class Item:
    """Something that can be removed.

    Attributes
    ----------
    name
        What it is, for the user.
    used
        When it was last used, or created, in seconds since 1970.
    remove
        Removes it; with ``True`` it only checks that. It raises a `PidocError` if it cannot be removed.
    blocks
        Its blocks in the cache; empty if it is elsewhere.
    content
        Of an image: its content, which its templates name.
    base
        Of a template: the content of the image that it was booted from.
    useless
        Why it is useless; empty if it might still be needed.
    """

    name: str
    used: float
    remove: Callable[[bool], None]
    blocks: Blocks = field(default_factory=dict)
    content: str = ""
    base: str = ""
    useless: str = ""


@dataclass(frozen=True)
class Outcome:
    """Whether an item was removed, and why."""

    item: Item
    removed: bool
    why: str


def prune(
    items: Sequence[Item], *, now: float, age: float | None, size: int | None, dry_run: bool = False
) -> Iterator[Outcome]:
    """Remove items, and yield the outcome of each as soon as it is known.

    Parameters
    ----------
    items
        All items.
    now
        The time, in seconds since 1970.
    age
        Remove items that were not used for this number of seconds.
    size
        Remove items from the cache, the least recently used first, until the rest takes at most this number of bytes.
        Without *age* and *size*, everything that is not in use is removed.
    dry_run
        Remove nothing.
    """
    left = list(items)
    templates_first = sorted(items, key=lambda item: (not item.useless, int(item.used), not item.base, item.name))
    later = []
    for item in templates_first:
        why = item.useless or _why(item, now=now, age=age, fits=size is None or occupied(left) <= size, size=size)
        if not why:
            later.append(item)
            continue
        outcome = _attempt(item, why, dry_run)
        if outcome.removed:
            left.remove(item)
        yield outcome
    contents = {item.content for item in left}
    for item in later:
        if item.base and item.base not in contents:
            yield _attempt(item, "its image no longer exists", dry_run)
        else:
            yield Outcome(item, False, f"used {duration(now - item.used)} ago")


def occupied(items: Sequence[Item]) -> int:
    """Return how many bytes the items take in the cache together."""
    return sum({place: size for item in items for place, size in item.blocks.items()}.values())


def in_cache(root: Path, used: Collection[Path]) -> list[Item]:
    """Return the images, warm states and downloads in a cache directory, and the rest of interrupted builds.

    Parameters
    ----------
    root
        The cache directory.
    used
        Images that are known to be in use by other means than their locks.
    """
    cache = Cache(root)
    images = cache.images()
    published = [image for path in (root / "published").glob("*") if (image := _read(path))]
    contents = {image.manifest.content for image in (*images, *published)}
    items = []
    for image in images:
        base = templates.image_booted(image.manifest)
        items.append(
            Item(
                name=_name(image),
                used=_last_used(root, image),
                remove=partial(_remove_image, cache, image.path, used),
                blocks=_blocks(image.path),
                content=image.manifest.content,
                base=base,
                useless="its image no longer exists" if base and base not in contents else "",
            )
        )
    for path in cache.unreadable():
        remove = partial(_remove_image, cache, path, used)
        items.append(Item(str(path), 0, remove, _blocks(path), useless="its manifest cannot be read"))
    for path in cache.leftovers():
        remove = partial(_remove_leftover, cache, path)
        items.append(Item(str(path), _time(path), remove, _blocks(path), useless="an interrupted build"))
    for path in download.kept(root / "downloads"):
        used_at = max(_time(path), _time(path.with_suffix(".lock")))
        name = f"the download {path.name[:12]}"
        items.append(Item(name, used_at, partial(_remove_download, path), _blocks(path)))
    return items


def containers(client: docker.DockerClient) -> list[Item]:
    """Return our container images that a daemon stores; their creation stands for their last use, which is unknown."""
    return [
        Item(
            f"the container image {image.names[0] if image.names else image.id[:19]}",
            image.created,
            partial(_remove_container_image, client, image),
            useless="an interrupted build" if image.kind == "qemu-source" else "",
        )
        for image in stored.stored(client)
    ]


def evidence(base: Path) -> list[Item]:
    """Return the saved logs of failed starts in *base*."""
    return [
        Item(f"the evidence {folder.path.name}", folder.kept, partial(_remove_evidence, folder))
        for folder in artifacts.folders(base)
    ]


def _why(item: Item, *, now: float, age: float | None, fits: bool, size: int | None) -> str:
    """Return why an item is removed that might still be needed; empty if it stays."""
    if age is not None and now - item.used > age:
        return f"not used for {duration(now - item.used)}"
    if size is not None and not fits and item.blocks:
        return f"last used {duration(now - item.used)} ago"
    return "no cluster uses it" if age is None and size is None else ""


def _attempt(item: Item, why: str, dry_run: bool) -> Outcome:
    try:
        item.remove(dry_run)
    except ImageInUse as error:
        return Outcome(item, False, error.what if isinstance(error, usage.UseUnknown) else "a cluster uses it")
    except PidocError as error:
        return Outcome(item, False, error.what)
    return Outcome(item, True, why)


def _remove_image(cache: Cache, path: Path, used: Collection[Path], dry_run: bool) -> None:
    if path in used:  # by nodes without power, which hold no locks
        raise ImageInUse(f"Nodes are running from the image in {path}.")
    cache.remove(path, dry_run=dry_run)


def _remove_leftover(cache: Cache, path: Path, dry_run: bool) -> None:
    cache.remove_leftover(path, dry_run=dry_run)


def _remove_download(path: Path, dry_run: bool) -> None:
    try:
        download.discard(path, dry_run=dry_run)
    except OSError as error:
        raise ImageError(f"Cannot remove {path}: {error.strerror or error}.", tip="check who owns it") from error


def _remove_container_image(client: docker.DockerClient, image: stored.StoredImage, dry_run: bool) -> None:
    if stored.is_used(client, image) or not (dry_run or stored.discard(client, image)):
        raise ImageInUse(
            f"Nodes are running from the container image {image.id}.", tip="end them with pidoc down first"
        )


def _remove_evidence(folder: artifacts.Folder, dry_run: bool) -> None:
    try:
        if not dry_run:
            folder.remove()
    except OSError as error:
        raise PidocError(f"Cannot remove {folder.path}: {error.strerror or error}.", tip="check who owns it") from error


def _name(image: Image) -> str:
    qemu = image.manifest.versions.get("qemu", "")
    return f"{image} on QEMU {qemu.split()[0]}" if qemu and templates.image_booted(image.manifest) else str(image)


def _last_used(root: Path, image: Image) -> float:
    known = usage.last_used(root, image.path)
    if known is not None:
        return known
    try:
        return datetime.fromisoformat(image.manifest.created).timestamp()
    except ValueError:
        return _time(image.path)


def _read(path: Path) -> Image | None:
    try:
        return Image.read(path)
    except ImageError:
        return None


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _blocks(path: Path) -> Blocks:
    """Return the blocks of a file, or of a directory with everything in it."""
    found: Blocks = {}
    for folder, _, names in os.walk(path):
        for name in names:
            found.update(_blocks(Path(folder, name)))
    with contextlib.suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found
