"""Published container images: pulled from a registry; the host copies the guest's manifest and key out of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_pidoc.containers.daemon import GUEST_LABEL, IMAGE_LABEL, daemon_errors
from pytest_pidoc.containers.running import own_labels, remove
from pytest_pidoc.errors import ChecksumMismatch, DownloadError, ImageError
from pytest_pidoc.host.locks import locked
from pytest_pidoc.images.store.cache import cache_errors
from pytest_pidoc.images.store.image import MANIFEST, Image, Manifest
from pytest_pidoc.settings.table import REGISTRY_PREFIX
from pytest_pidoc.values.checks import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import docker

    from pytest_pidoc.values.progress import Progress

__all__ = ["pull"]

GUEST = "/guest"
LOCK_TIMEOUT = 1800.0  # seconds to wait for another process's pull
LARGEST = 1 << 20  # bytes: neither a manifest nor a key is larger


def pull(
    client: docker.DockerClient, reference: str, *, directory: Path, progress: Progress, again: bool = False
) -> tuple[str, Image]:
    """Return the reference of a published container image, once the daemon has it, and the guest in it.

    The guest's kernel and disk stay in the container image. Its manifest and the private key that logs in to
    it are copied to ``directory/<key of the guest>``.

    Parameters
    ----------
    client
        The daemon.
    reference
        What to pull: ``docker://registry.example.org/pidoc:1``, with or without ``docker://``.
    directory
        Where manifests and keys of pulled guests are kept.
    progress
        Is called with each step.
    again
        Ask the registry even if the daemon has an image of that name, because the tag might have moved.

    Raises
    ------
    DownloadError
        The registry does not answer, or the download is incomplete.
    ImageError
        The image does not exist, or pytest-pidoc did not build it.
    EngineUnavailable
        The daemon does not answer.
    """
    reference = reference.removeprefix(REGISTRY_PREFIX)
    with contextlib.ExitStack() as stack:
        stack.enter_context(cache_errors(directory))
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory / "pull.lock"
        stack.enter_context(locked(lock, purpose=f"pulling {reference}", timeout=LOCK_TIMEOUT, progress=progress))
        labels = None if again else _labels(client, reference)
        if labels is None:
            _pull(client, reference, progress)
            labels = _labels(client, reference) or {}
        key = labels.get(GUEST_LABEL, "")
        if labels.get(IMAGE_LABEL) != "pidoc" or not re.fullmatch("[0-9a-f]{16,64}", key):
            raise ImageError(
                f"{reference} is not a container image with a guest of pytest-pidoc.",
                tip="use an image that `pidoc build --container pidoc` has built",
            )
        path = directory / key
        try:
            return reference, _read(path)
        except (OSError, ImageError):
            progress.step(f"copying the manifest and the SSH key from {reference}")
            with tempfile.TemporaryDirectory(dir=directory) as draft:
                _extract(client, reference, Path(draft), key)
                shutil.rmtree(path, ignore_errors=True)
                Path(draft).rename(path)
                Path(draft).mkdir()  # for its own removal
            return reference, _read(path)


def _pull(client: docker.DockerClient, reference: str, progress: Progress) -> None:
    import docker.errors
    from docker.utils import parse_repository_tag

    repository, tag = parse_repository_tag(reference)
    progress.step(f"pulling {reference}")
    layers: dict[str, bool] = {}
    with daemon_errors(f"pull {reference}"):
        try:
            messages = client.api.pull(repository, tag=tag or "latest", stream=True, decode=True)
        except docker.errors.APIError as error:
            raise _refusal(reference, str(error.explanation)) from error
        with contextlib.closing(messages):
            for message in messages:
                if "error" in message:
                    raise _refusal(reference, str(message["error"]))
                status = message.get("status", "")
                if status in ("Pulling fs layer", "Pull complete", "Already exists"):
                    layers[message["id"]] = status != "Pulling fs layer"
                if status == "Pull complete":
                    progress.step(f"pulling {reference}: {sum(layers.values())} of {len(layers)} layers")


def _refusal(reference: str, reason: str) -> ImageError:
    """Return the error for the daemon's reason why a pull failed."""
    reason = reason.strip().rstrip(".")
    if re.search("manifest unknown|not found|does not exist|access denied|unauthorized|invalid reference", reason):
        return ImageError(
            f"{reference} does not exist or cannot be pulled: {reason}.",
            tip="check its name and tag; run `docker login` if the registry asks for a password",
        )
    return DownloadError(
        f"Pulling {reference} failed: {reason}.",
        tip="check that the Docker daemon can reach the registry, then pull it again",
    )


def _labels(client: docker.DockerClient, reference: str) -> Mapping[str, str] | None:
    """Return the labels of an image of the daemon's, or ``None`` if the daemon does not have it."""
    import docker.errors

    with daemon_errors(f"inspect {reference}"):
        try:
            return dict(client.images.get(reference).labels)
        except docker.errors.ImageNotFound:
            return None
        except docker.errors.APIError as error:
            if error.status_code != 400:
                raise
            raise _refusal(reference, str(error.explanation)) from error


def _extract(client: docker.DockerClient, reference: str, directory: Path, key: str) -> None:
    """Copy the manifest and the private key out of the image, through a container that is never started."""
    with daemon_errors(f"read {reference}"):
        container = client.api.create_container(
            reference, command=["nothing"], labels=own_labels(f"pull-{os.getpid()}")
        )["Id"]
        try:
            text = _file(client, container, MANIFEST)
            manifest = Manifest.from_json(text.decode(errors="replace"))
            _check(manifest, key)
            name = manifest.files["private_key"].name
            secret = _file(client, container, name)
        finally:
            remove(client, container)
    (directory / MANIFEST).write_bytes(text)
    (directory / name).touch(mode=0o600, exist_ok=False)
    (directory / name).write_bytes(secret)


def _file(client: docker.DockerClient, container: str, name: str) -> bytes:
    """Return the contents of a small file of the guest."""
    import docker.errors

    try:
        stream, _ = client.api.get_archive(container, f"{GUEST}/{name}")
    except docker.errors.NotFound as error:
        raise ImageError(f"The container image does not contain {GUEST}/{name}.") from error
    with contextlib.closing(stream), tarfile.open(fileobj=io.BytesIO(_bounded(stream))) as archive:
        member = archive.next()
        content = archive.extractfile(member) if member is not None and member.isreg() else None
        if content is None:
            raise ImageError(f"{GUEST}/{name} in the container image is not a regular file.")
        return content.read()


def _bounded(stream: Iterator[bytes]) -> bytes:
    content = b""
    for chunk in stream:
        content += chunk
        if len(content) > LARGEST:
            raise ImageError(
                f"The manifest or the key in the container image is too large: at most {LARGEST} bytes are supported."
            )
    return content


def _read(path: Path) -> Image:
    """Return the pulled guest in *path*."""
    manifest = Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
    _check(manifest, path.name)
    image = Image(path, manifest)
    secret = image.file("private_key")
    if hashlib.sha256(secret.read_bytes()).hexdigest() != manifest.files["private_key"].sha256:
        raise ChecksumMismatch(
            f"{secret} does not match the SHA-256 in its manifest.", tip=f"remove {path}, then pull the image again"
        )
    return image


def _check(manifest: Manifest, key: str) -> None:
    """Refuse a manifest that is not the image's, or whose texts would be unsafe on this host.

    They become file names, parts of QEMU's command line and lines of an ssh configuration.
    """
    names = [file.name for file in manifest.files.values()]
    if manifest.key != key or "private_key" not in manifest.files:
        raise ImageError("The manifest in the container image belongs to another guest.")
    for text in [*names, manifest.user]:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text):
            raise ImageError(f"The manifest in the container image has an invalid file or user name: {shown(text)}.")
    for text in manifest.host_keys:
        if "\n" in text:
            raise ImageError(
                f"The manifest in the container image has an invalid host key: {shown(text)}; it must be one line."
            )
