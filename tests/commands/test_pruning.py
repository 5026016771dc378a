"""What goes to make room, and what stays."""

from __future__ import annotations

import dataclasses
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.commands.pruning import Item, in_cache, occupied, prune
from pytest_pidoc.errors import ImageInUse
from pytest_pidoc.images.store import usage
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import Image, Manifest, Source
from pytest_pidoc.lifecycle import templates

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_pidoc.images.store.buildlog import BuildLog

DAY = 86400.0


def remove(dry_run: bool) -> None:
    """Remove nothing: the policy is looked at."""


def refuse(dry_run: bool) -> None:
    raise ImageInUse("Nodes are running from it.")


def item(name: str, *, age: float = 0, size: int = 0, place: int = 0, **others: object) -> Item:
    blocks = {(0, place or hash(name)): size} if size else {}
    return Item(name, 1000 * DAY - age * DAY, **{"remove": remove, "blocks": blocks, **others})  # type: ignore[arg-type]


def removed(items: list[Item], *, days: float | None = None, size: int | None = None) -> list[str]:
    age = None if days is None else days * DAY
    return [outcome.item.name for outcome in prune(items, now=1000 * DAY, age=age, size=size) if outcome.removed]


def test_without_a_bound_all_goes_that_is_not_in_use() -> None:
    """In use is what refuses to be removed."""
    items = [item("old", age=9), item("new"), item("used", remove=refuse)]

    assert removed(items) == ["old", "new"]


def test_by_age() -> None:
    """What was not used for longer goes."""
    assert removed([item("old", age=9), item("new", age=1)], days=3) == ["old"]


def test_by_size_the_least_recently_used_go_until_the_rest_fits() -> None:
    """No more than needed, and what is in use makes others go."""
    items = [item("c", age=1, size=10), item("a", age=3, size=10), item("b", age=2, size=10)]
    assert removed(items, size=20) == ["a"]
    assert removed(items, size=5) == ["a", "b", "c"]
    assert removed(items, size=30) == []

    items[1] = item("a", age=3, size=10, remove=refuse)
    assert removed(items, size=20) == ["b"]


def test_by_size_what_takes_no_room_stays() -> None:
    """Container images are in another place than the cache, which would not become smaller."""
    assert removed([item("container"), item("image", size=10)], size=5) == ["image"]


def test_by_age_and_size() -> None:
    """What is too old goes, and then the least recently used until the rest fits the size."""
    items = [item("old", age=9, size=1), item("a", age=2, size=10), item("b", age=1, size=10)]

    assert removed(items, days=3, size=10) == ["old", "a"]


def test_files_that_two_images_share_count_once() -> None:
    """A derived image is made of hard links."""
    items = [item("base", age=1, size=10, place=7), item("derived", size=10, place=7)]

    assert occupied(items) == 10
    assert removed(items, size=10) == []


def test_a_warm_state_goes_with_its_image() -> None:
    """It is of no use without, since another build of the image is another image."""
    items = [item("image", age=9, content="x"), item("warm", base="x"), item("other", base="y"), item("y", content="y")]

    assert removed(items, days=3) == ["image", "warm"]


def test_what_nobody_can_need_goes_whatever_its_age() -> None:
    """What a killed builder left, for example."""
    assert removed([item("half", useless="interrupted"), item("new")], days=3, size=10) == ["half"]


@given(
    sizes=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50), st.booleans()), max_size=12),
    limit=st.integers(0, 300),
)
def test_what_is_left_fits_or_is_in_use(sizes: list[tuple[int, int, bool]], limit: int) -> None:
    """Nothing goes in vain: without the last one that went, it would not fit."""
    items = [
        item(f"{number}", age=age, size=size, place=number + 1, remove=refuse if used else remove)
        for number, (age, size, used) in enumerate(sizes)
    ]
    gone = removed(items, size=limit)
    left = [each for each in items if each.name not in gone]

    assert occupied(left) <= limit or all(each.remove is refuse for each in left)
    if gone:
        last = next(each for each in items if each.name == gone[-1])
        assert occupied([*left, last]) > limit


def build(cache: Cache, key: str, content: bytes, base: Image | None = None) -> Image:
    """Build an image, or a warm state of one."""

    def make(directory: Path, log: BuildLog) -> Manifest:
        (directory / "disk").write_bytes(content)
        files = {"disk": image_file(directory / "disk")}
        sources = (Source("debian:bookworm", templates.BASE, base.manifest.content),) if base else ()
        versions = {"qemu": "10.0.2 (Debian)"} if base else {}
        manifest = Manifest("debian:bookworm", "arm64", "", files, "pi", (), versions=versions, sources=sources)
        return manifest if base is None else dataclasses.replace(manifest, recipe="debian:bookworm warm")

    return cache.build(key * 64, make, what="an image", rebuild=True)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_cache_is_listed_and_emptied(cache: Cache) -> None:
    """Real images: a warm state names its QEMU, and nothing is left but locks, logs and what is in use."""
    image = build(cache, "a", b"x" * 10_000)
    template = build(cache, "b", b"y" * 10_000, image)
    used = build(cache, "c", b"z" * 10_000)
    (cache.root / "images" / f".new-{'d' * 64}").mkdir()
    items = in_cache(cache.root, {used.path})

    assert {each.name for each in items} >= {str(image), f"{template} on QEMU 10.0.2", str(used)}
    assert occupied(items) >= 30_000
    outcomes = list(prune(items, now=0, age=None, size=None))
    assert [outcome.item.name for outcome in outcomes if not outcome.removed] == [str(used)]
    assert cache.images() == [used]
    assert cache.leftovers() == []


def test_a_warm_state_of_a_replaced_image_is_useless(cache: Cache) -> None:
    """Another build of the same recipe has the same key, but neither the same disk nor the same SSH key."""
    image = build(cache, "a", b"x")
    template = build(cache, "b", b"y", image)
    assert not any(each.useless for each in in_cache(cache.root, ()))

    build(cache, "a", b"another")
    (useless,) = [each for each in in_cache(cache.root, ()) if each.useless]
    assert useless.name.startswith(str(template))
    assert useless.useless == "its image no longer exists"


def test_a_warm_state_of_a_published_image_is_of_use(cache: Cache) -> None:
    """Of such an image only the manifest and the private key are here."""
    image = build(cache, "a", b"x")
    build(cache, "b", b"y", image)
    shutil.copytree(image.path, cache.root / "published" / "a")
    cache.remove(image.path)

    assert not any(each.useless for each in in_cache(cache.root, ()))


def test_the_last_start_counts_and_not_the_build(cache: Cache) -> None:
    """An old image that is used every day stays."""
    image = build(cache, "a", b"x")
    descriptor = usage.hold(cache.root, image.path)
    assert descriptor is not None
    os.close(descriptor)
    os.utime(cache.root / "locks" / f"{image.path.name}.use", (5000, 5000))

    (only,) = in_cache(cache.root, ())
    assert only.used == 5000
