"""The build context of the container image, its address, and what a pulled manifest may say."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.containers import registry
from pytest_pidoc.containers.build import build, context, key
from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.store.image import Image, ImageFile, Manifest
from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "0123456789abcdef" * 4


@pytest.fixture
def guest(tmp_path: Path) -> Image:
    contents = {"kernel": b"kernel" * 1000, "disk": b"", "private_key": b"secret\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    files = {name: ImageFile(name, len(content), "0" * 64) for name, content in contents.items()}
    return Image(tmp_path, Manifest("toy", "arm64", KEY, files, "pi", ("ssh-ed25519 AAAA",)))


def opened(pieces: Iterator[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(pieces)))


def test_the_context_without_a_guest_is_the_recipe() -> None:
    """For pidoc-vm the daemon gets the Dockerfile and its scripts, executable whatever the installation did."""
    with opened(context(None)) as archive:
        modes = {member.name: member.mode for member in archive}
    assert modes == {"Dockerfile": 0o644, "build-qemu": 0o755, "entrypoint": 0o755, "guard.py": 0o755}


def test_the_context_holds_the_guest_whole(guest: Image) -> None:
    """Every file of the guest arrives byte for byte, with its manifest."""
    with opened(context(guest)) as archive:
        contents = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    assert contents["guest/kernel"] == b"kernel" * 1000
    assert contents["guest/disk"] == b""
    assert Manifest.from_json(contents["guest/manifest.json"].decode()) == guest.manifest


def test_only_root_reads_the_private_key(guest: Image) -> None:
    """QEMU runs as any user and needs every file but one."""
    with opened(context(guest)) as archive:
        modes = {member.name: member.mode for member in archive if member.name.startswith("guest/")}
    assert modes.pop("guest/private_key") == 0o400
    assert set(modes.values()) == {0o444}


def test_a_guest_that_shrinks_is_not_sent(guest: Image) -> None:
    """A file that somebody cuts while it is read ends the build, instead of sending another file's bytes."""
    pieces = context(guest)
    seen = b""
    while b"guest/kernel" not in seen:
        seen = next(pieces)
    guest.file("kernel").write_bytes(b"")
    with pytest.raises(ImageError, match="was truncated"):
        list(pieces)


def test_the_key_names_all_that_goes_in(guest: Image) -> None:
    """The same ingredients have the same key; another base, guest or argument has another."""
    other = dataclasses.replace(guest, manifest=dataclasses.replace(guest.manifest, key="f" * 64))
    keys = [
        key("sha256:1", guest, {"A": "1", "B": "2"}),
        key("sha256:2", guest, {"A": "1", "B": "2"}),
        key("sha256:1", other, {"A": "1", "B": "2"}),
        key("sha256:1", None, {"A": "1", "B": "2"}),
        key("sha256:1", guest, {"A": "1"}),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key("sha256:1", guest, {"B": "2", "A": "1"})


@pytest.mark.parametrize(
    "change",
    [
        {"key": "f" * 64},
        {"user": "pi\n  ProxyCommand touch /tmp/owned"},
        {"user": ""},
        {"host_keys": ("ssh-ed25519 AAAA\n@cert-authority * ssh-ed25519 BBBB",)},
        {"files": {}},
        {"files": {"private_key": ImageFile("../../.ssh/authorized_keys", 1, "0" * 64)}},
        {"files": {"private_key": ImageFile("key", 1, "0" * 64), "disk": ImageFile("disk,snapshot=on", 1, "0" * 64)}},
    ],
    ids=["other-guest", "user-with-lines", "no-user", "host-key-with-lines", "no-key", "path", "option"],
)
def test_a_pulled_manifest_that_says_too_much_is_refused(guest: Image, change: dict[str, object]) -> None:
    """What comes from a registry becomes file names and configuration here: names must be names."""
    registry._check(guest.manifest, KEY)
    with pytest.raises(ImageError, match="The manifest in the container image"):
        registry._check(dataclasses.replace(guest.manifest, **change), KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("manifest for localhost:5000/pidoc:2 not found: manifest unknown: manifest unknown", "ImageError"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "ImageError"),
        ("Get http://127.0.0.1:1/v2/: dial tcp 127.0.0.1:1: connect: connection refused", "DownloadError"),
        ("filesystem layer verification failed for digest sha256:12", "DownloadError"),
        ("unexpected EOF", "DownloadError"),
    ],
)
def test_a_refused_pull_says_what_to_do(reason: str, kind: str) -> None:
    """An image that is not there is one thing, one that did not arrive is another."""
    error = registry._refusal("r.example/x:1", reason)
    assert type(error).__name__ == kind
    assert reason in str(error)
    assert error.tip


def test_a_directory_that_cannot_be_used_is_an_image_error(tmp_path: Path) -> None:
    """A full disk, or here a file in its place, is named with the option that gives another one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match=r"(?s)Cannot use the cache directory.*--pidoc-cache-dir"):
        build(None, directory=tmp_path / "file" / "containers", progress=Progress())  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"(?s)Cannot use the cache directory.*--pidoc-cache-dir"):
        registry.pull(None, "a:1", directory=tmp_path / "file" / "x", progress=Progress())  # type: ignore[arg-type]
