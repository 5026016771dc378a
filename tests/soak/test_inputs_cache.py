"""Damaged cache entries: never used, never followed out of the cache, and what is not damaged goes on being used."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from bad_inputs import apply, damaged, json_mutated, json_values, judged, remove, write
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc import cli
from pytest_pidoc.errors import PidocError
from pytest_pidoc.images.fetch import source
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import MANIFEST, Image, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_pidoc.images.store.buildlog import BuildLog

FAST, SLOW = (hypothesis.settings.get_profile(name) for name in ("soak", "soak-slow"))

KEY, OTHER = "ab" * 32, "cd" * 32
PARTS = {"kernel": "kernel", "disk": "disk.qcow2", "private_key": "id"}
FILES = [
    *(f"images/{KEY}/{name}" for name in (MANIFEST, *PARTS.values(), ".")),
    *(f"images/{KEY}", f"images/.new-{KEY}", f"images/.old-{OTHER}", "images/nothing"),
    *(f"stamps/{KEY}.json", f"locks/{KEY}.lock", f"locks/{KEY}.holder", f"locks/{KEY}.use", f"logs/{KEY}.log"),
    *("images", "stamps", "locks", "logs", "downloads", "."),
    *(f"downloads/{OTHER}{suffix}" for suffix in ("", ".part", ".json", ".lock", ".holder")),
]


def make(directory: Path, log: BuildLog) -> Manifest:
    for name in PARTS.values():
        (directory / name).write_bytes(f"the {name}".encode() * 100)
    files = {role: image_file(directory / name) for role, name in PARTS.items()}
    return Manifest("debian:bookworm", "arm64", "", files, "pi", ("ssh-ed25519 AAAA",), versions={"kernel": "6.1"})


@pytest.fixture
def cache(nothing_left: Path, tmp_path: Path) -> Iterator[Cache]:
    """A cache with an image in it, and things beside it that nothing in it may lead to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    cache = Cache(tmp_path / "good", lock_timeout=1)
    cache.build(KEY, make, what="an image")
    (cache.root / "downloads").mkdir()
    (cache.root / "downloads" / OTHER).write_bytes(b"a download")
    yield cache
    assert (outside / "precious").read_text() == "kept"
    assert sorted(path.name for path in outside.iterdir()) == ["precious"]


def copied(cache: Cache) -> Cache:
    """Return a copy of a cache, to be damaged."""
    root = cache.root.parent / "cache"
    with contextlib.suppress(FileNotFoundError):
        root.chmod(0o700)
    remove(root)
    shutil.copytree(cache.root, root)
    return Cache(root, lock_timeout=1)


def use(cache: Cache, *arguments: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = cli.main([*arguments, "--cache-dir", str(cache.root)])
    assert status in (0, 1, 2)
    if status:
        raise PidocError(said.getvalue())


def find(cache: Cache) -> None:
    """What is found is what was built."""
    if (image := cache.find(KEY)) is not None:
        for name in PARTS.values():
            assert (image.path / name).read_bytes() == f"the {name}".encode() * 100


USES: dict[str, Callable[[Cache], object]] = {
    "find": find,
    "list": lambda cache: (cache.images(), cache.unreadable()),
    "pidoc images": lambda cache: use(cache, "images"),
    "pidoc images --json": lambda cache: use(cache, "images", "--json"),
    "pidoc prune": lambda cache: use(cache, "prune"),
    "pidoc prune --days": lambda cache: use(cache, "prune", "--days", "1"),
}


#: Each waits for the disk.
BUILDS: dict[str, Callable[[Cache], object]] = {
    "build": lambda cache: cache.build(KEY, make, what="an image"),
    "rebuild": lambda cache: cache.build(KEY, make, what="an image", rebuild=True),
    "build another": lambda cache: cache.build(OTHER, make, what="another"),
}


@pytest.mark.parametrize("what", USES)
@FAST
@given(damage=damaged(st.sampled_from(FILES)))
def test_cache_that_is_damaged(cache: Cache, what: str, damage: list[Any]) -> None:
    """Whatever is damaged in a cache, a use of it succeeds or ends in an error of ours."""
    other = copied(cache)
    apply(other.root, damage)
    with judged():
        USES[what](other)


@pytest.mark.parametrize("what", BUILDS)
@SLOW
@given(damage=damaged(st.sampled_from(FILES)))
def test_build_in_a_cache_that_is_damaged(cache: Cache, what: str, damage: list[Any]) -> None:
    """Whatever is damaged in a cache, a build in it succeeds or ends in an error of ours."""
    other = copied(cache)
    apply(other.root, damage)
    with judged():
        BUILDS[what](other)


GOOD = {
    "format": 1,
    "recipe": "debian:bookworm",
    "architecture": "arm64",
    "key": KEY,
    "user": "pi",
    "append": "",
    "partition": 0,
    "files": {role: {"name": name, "size": 1000, "sha256": "0" * 64} for role, name in PARTS.items()},
    "host_keys": ["ssh-ed25519 AAAA"],
    "stock": False,
    "password": "",
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"kernel": "6.1"},
    "sources": [{"name": "base-files", "version": "12", "sha256": "0" * 64}],
}


@pytest.mark.parametrize("what", ["find", "list", "pidoc images", "pidoc prune"])
@FAST
@given(manifest=json_mutated(GOOD))
def test_manifest_that_says_something_else(cache: Cache, what: str, manifest: Any) -> None:
    """A manifest that is JSON but says something else is used or refused, and never crashes what reads it."""
    other = copied(cache)
    path = other.root / "images" / KEY / MANIFEST
    write(path, json.dumps(manifest).encode())
    with judged():
        USES[what](other)


@FAST
@given(json_mutated(GOOD).map(json.dumps) | json_values.map(json.dumps) | st.text(max_size=50))
def test_text_of_a_manifest(text: str) -> None:
    """A text that is accepted as a manifest is read again as it was written, and no file of it is elsewhere."""
    with judged():
        manifest = Manifest.from_json(text)
        assert Manifest.from_json(manifest.to_json()) == manifest
        assert all("/" not in file.name for file in manifest.files.values())


@FAST
@given(damage=damaged(st.sampled_from(["stamps", "file", "file.json"])), stamp=json_values)
def test_stamp_of_a_file_of_the_users(cache: Cache, damage: list[Any], stamp: Any) -> None:
    """A file is what it is, whatever was written down of it."""
    other = copied(cache)
    path = other.root / "file"
    path.write_bytes(b"a kernel")
    source.parse(str(path), what="kernel").identify(other)
    (written,) = (other.root / "stamps").glob("file-*")
    write(written, json.dumps(stamp).encode())
    apply(
        other.root,
        [(written.relative_to(other.root).as_posix() if name == "file.json" else name, how) for name, how in damage],
    )
    with judged():
        found = source.parse(str(path), what="kernel").identify(other)
        assert found == image_file(path).sha256


@FAST
@given(damage=damaged(st.sampled_from([MANIFEST, "id", "."])))
def test_directory_of_an_image(cache: Cache, damage: list[Any]) -> None:
    """An image whose directory is damaged is read or refused, and never crashes what reads it."""
    other = copied(cache)
    apply(other.root / "images" / KEY, damage)
    with judged():
        Image.read(other.root / "images" / KEY).file("kernel")
