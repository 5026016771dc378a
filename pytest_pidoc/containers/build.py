"""Building the container image that nodes of the engine docker run in, from the packaged Dockerfile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pytest_pidoc.containers.daemon import IMAGE_LABEL, daemon_errors
from pytest_pidoc.errors import EngineUnavailable, ImageError
from pytest_pidoc.host import documents
from pytest_pidoc.host.locks import locked
from pytest_pidoc.images.store.cache import cache_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import docker

    from pytest_pidoc.images.store.image import Image
    from pytest_pidoc.values.progress import Progress

__all__ = ["BASE_IMAGE", "OWN_BASE", "build", "context", "key", "tag"]

BASE_IMAGE = "debian:trixie-slim"
OWN_BASE = "pytest-pidoc/base:trixie"  # what stands in for it where no registry can be reached
SCRIPTS = ("build-qemu", "entrypoint", "guard.py")
LOCK_TIMEOUT = 1800.0  # seconds to wait for another process's build
BLOCK = 512  # of a tar archive
# What debian:trixie-slim leaves out, too. The options stay in the base, and so hold for QEMU's packages.
SLIM = [
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
]


def build(
    client: docker.DockerClient,
    guest: Image | None = None,
    *,
    directory: Path,
    progress: Progress,
    base_image: str = BASE_IMAGE,
    arguments: Mapping[str, str] | None = None,
) -> str:
    """Return the reference of the container image; it is built if the daemon does not have it.

    Without a *guest* that is ``pytest-pidoc/pidoc-vm:<key>``: QEMU alone; the engine mounts the guest into
    it. With one it is ``pytest-pidoc/pidoc:<key>``, which can be pushed to a registry and used from there.

    Parameters
    ----------
    client
        The daemon.
    guest
        The image to put in.
    directory
        Where the lock and the build's logs are kept.
    progress
        Is called with each step.
    base_image
        What the container image is built on: a Debian, or an image with Debian's ``apt-get`` and package names.
    arguments
        More build arguments of the Dockerfile, such as ``QEMU_SOURCE_VERSION``.

    Raises
    ------
    ImageError
        The build failed (the message shows the last lines of its log), or the directory cannot be used.
    EngineUnavailable
        The daemon does not answer.
    """
    target = "pidoc-vm" if guest is None else "pidoc"
    purpose = f"building the container image {target}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(cache_errors(directory))
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory / "container.lock"
        stack.enter_context(locked(lock, purpose=purpose, timeout=LOCK_TIMEOUT, progress=progress))
        base = _base(client, base_image, directory / "base.log", progress)
        arguments = {**(arguments or {}), "BASE_IMAGE": base.reference}
        address = key(base.id, guest, arguments)
        reference = f"pytest-pidoc/{target}:{address[:16]}"
        if _id(client, reference) is None:
            progress.step(f"building the container image {reference}")
            if guest is not None:
                arguments["GUEST_KEY"] = guest.manifest.key
            _build(client, target, reference, context(guest), arguments, directory / f"{target}.log", progress)
    return reference


def tag(client: docker.DockerClient, reference: str, name: str) -> None:
    """Give a container image a second name, e.g. for ``docker push``: ``registry.example.org/pidoc:1``.

    Raises
    ------
    EngineUnavailable
        The daemon rejects the name, or does not answer.
    """
    from docker.utils import parse_repository_tag

    repository, version = parse_repository_tag(name)
    with daemon_errors(f"give {reference} the name {name!r}"):
        client.api.tag(reference, repository, version or "latest")


def key(base: str, guest: Image | None, arguments: Mapping[str, str]) -> str:
    """Return the content address of a container image; *base* is the id of the image that it is built on."""
    parts = {name: _packaged(name).decode() for name in ("Dockerfile", *SCRIPTS)}
    address = {
        "recipe": parts,
        "base": base,
        "guest": None if guest is None else guest.manifest.key,
        "arguments": dict(arguments),
    }
    return hashlib.sha256(json.dumps(address, sort_keys=True).encode()).hexdigest()


def context(guest: Image | None) -> Iterator[bytes]:
    """Yield the build context, a tar archive, piece by piece: a large guest is neither copied nor held.

    The guest's files can be read by everybody in the container, where QEMU runs as the user who called, with
    one exception. Only root can read the private key: QEMU does not need it, and the daemon reads it for
    anybody who has access to the daemon (see `pytest_pidoc.containers.registry`).
    """
    for name in ("Dockerfile", *SCRIPTS):
        content = _packaged(name)
        yield _header(name, len(content), mode=0o644 if name == "Dockerfile" else 0o755)
        yield from _padded([content], len(content))
    if guest is not None:
        manifest = guest.manifest.to_json().encode()
        yield _header("guest/manifest.json", len(manifest), mode=0o444)
        yield from _padded([manifest], len(manifest))
        for role in guest.manifest.files:
            path = guest.file(role)
            with path.open("rb") as file:
                size = path.stat().st_size
                yield _header(f"guest/{path.name}", size, mode=0o400 if role == "private_key" else 0o444)
                yield from _padded(_chunks(file, size), size)
    yield bytes(2 * BLOCK)


@dataclass(frozen=True)
class _Base:
    reference: str
    id: str


def _base(client: docker.DockerClient, wanted: str, log: Path, progress: Progress) -> _Base:
    """Return the base image: one that the daemon has, else pulled, else built from Debian's packages."""
    stand_ins = [OWN_BASE] if wanted == BASE_IMAGE else []
    for reference in [wanted, *stand_ins]:
        if (found := _id(client, reference)) is not None:
            return _Base(reference, found)
    progress.step(f"pulling the base image {wanted}")
    try:
        with daemon_errors(f"pull {wanted}"):
            return _Base(wanted, str(client.images.pull(wanted).id))
    except EngineUnavailable as error:
        refusal = error
    if not stand_ins:
        raise ImageError(
            f"The base image {wanted} is missing and cannot be pulled: {refusal.what}",
            tip=f"run docker pull {wanted}, or choose another base image",
        ) from refusal
    progress.step(f"building {OWN_BASE} from Debian's packages with mmdebstrap, because {wanted} cannot be pulled")
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        archive = Path(folder, "base.tar")
        command = ["mmdebstrap", "--variant=minbase", *SLIM, "trixie", str(archive)]
        try:
            with log.open("wb") as output:
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except FileNotFoundError as error:
            raise ImageError(
                f"The base image {wanted} cannot be pulled, nor built without mmdebstrap: {refusal.what}",
                tip=f"run docker pull {wanted}, or apt-get install mmdebstrap",
            ) from error
        except subprocess.CalledProcessError as error:
            raise ImageError(
                f"mmdebstrap failed to build the base image {OWN_BASE}.", evidence=documents.tail(log), look=str(log)
            ) from error
        with daemon_errors(f"import {OWN_BASE}"), archive.open("rb") as stream:
            repository, _, tag = OWN_BASE.partition(":")
            client.api.import_image(stream, repository=repository, tag=tag, changes=[f"LABEL {IMAGE_LABEL}=base"])
    made = _id(client, OWN_BASE)
    if made is None:
        raise ImageError(
            f"Docker did not import the base image {OWN_BASE}.",
            look=str(log),
            tip="choose another base image with --base-image, such as debian:bookworm",
        )
    return _Base(OWN_BASE, made)


def _build(
    client: docker.DockerClient,
    target: str,
    reference: str,
    context: Iterator[bytes],
    arguments: Mapping[str, str],
    log: Path,
    progress: Progress,
) -> None:
    """Run the daemon's builder and follow its output; closing the connection cancels the build."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(daemon_errors(f"build {reference}"))
        output = stack.enter_context(log.open("w", encoding="utf-8"))
        stages = _Stages(client)
        stack.callback(stages.discard)
        messages = client.api.build(
            fileobj=context,  # type: ignore[arg-type] # handed to requests, which takes an iterator
            custom_context=True,
            target=target,
            tag=reference,
            buildargs=dict(arguments),
            rm=True,
            forcerm=True,  # the containers of a build that failed, too
            decode=True,
            timeout=None,  # apt may be silent for long
        )
        stack.callback(messages.close)
        for message in messages:
            text = str(message.get("stream") or message.get("error") or "")
            output.write(text)
            output.flush()
            stages.hear(text)
            if text.startswith("Step ") and " : RUN " in text:  # the others take no time
                progress.step(f"docker build: {text.strip()[:70]} ...")
            if "error" in message:
                what = f"docker build failed for the container image {reference}."
                raise ImageError(what, evidence=documents.tail(log), look=str(log))


class _Stages:
    """The images without a name that a build leaves: of the stages before the last, or of a build that failed."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client
        self._last = ""
        self._images: list[str] = []

    def hear(self, text: str) -> None:
        """Note the image ids in what the builder says: " ---> 0123456789ab" after each step."""
        if found := re.match(r" ---> ([0-9a-f]{12})\s*$", text):
            self._last = found[1]
        elif re.match(r"Step \S+ : FROM ", text) and self._last:
            self._images.append(self._last)

    def discard(self) -> None:
        """Remove them. They are a cache that is asked again only if the finished image is removed."""
        import docker.errors

        for image in [*self._images, self._last]:
            with contextlib.suppress(docker.errors.APIError):
                if image and not self._client.images.get(image).tags:
                    self._client.api.remove_image(image)


def _id(client: docker.DockerClient, reference: str) -> str | None:
    import docker.errors

    with daemon_errors(f"inspect {reference}"):
        try:
            return str(client.images.get(reference).id)
        except docker.errors.ImageNotFound:
            return None


def _packaged(name: str) -> bytes:
    package = resources.files("pytest_pidoc")
    return (package / ("qemu" if name == "guard.py" else "containers") / name).read_bytes()


def _header(name: str, size: int, *, mode: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = mode
    return info.tobuf(tarfile.GNU_FORMAT)


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = file.read(min(size, 1 << 20))
        if not chunk:
            raise ImageError(f"{file.name} was truncated while pidoc read it.")
        size -= len(chunk)
        yield chunk


def _padded(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    yield from chunks
    yield bytes(-size % BLOCK)
