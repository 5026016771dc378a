"""The container images that pytest-pidoc built and a daemon stores: listed by their label, and removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pidoc.containers.daemon import GUEST_LABEL, IMAGE_LABEL, daemon_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    import docker

__all__ = ["StoredImage", "discard", "is_used", "stored"]

NAMES = "pytest-pidoc/"  # how the names begin that we give


@dataclass(frozen=True)
class StoredImage:
    """A container image that pytest-pidoc built, as the daemon lists it.

    Attributes
    ----------
    id
        The daemon's id.
    kind
        ``pidoc``, ``pidoc-vm``, ``base``, or ``qemu-source`` for the rest of an interrupted build.
    names
        Our names of it; empty for the rest of an interrupted build.
    guest
        The key of the guest in it, or empty.
    size
        In bytes, with the layers that it shares with others.
    created
        When it was built, in seconds since 1970.
    """

    id: str
    kind: str
    names: tuple[str, ...]
    guest: str
    size: int
    created: int


def stored(client: docker.DockerClient) -> list[StoredImage]:
    """Return all container images that pytest-pidoc built, derived images before their bases.

    An image that a user built on one of them has its labels too, but not our names, so it is left out. So are
    images that were pulled under a registry's name.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer.
    """
    with daemon_errors("list images"):
        found = client.api.images(filters={"label": IMAGE_LABEL})
    images = [
        StoredImage(
            id=entry["Id"],
            kind=entry["Labels"][IMAGE_LABEL],
            names=tuple(name for name in entry["RepoTags"] or () if name.startswith(NAMES)),
            guest=entry["Labels"].get(GUEST_LABEL, ""),
            size=entry["Size"],
            created=entry["Created"],
        )
        for entry in found
        if _is_ours(entry["RepoTags"] or (), entry["Labels"][IMAGE_LABEL])
    ]
    order = ["pidoc", "pidoc-vm", "qemu-source", "base"]
    return sorted(images, key=lambda image: order.index(image.kind) if image.kind in order else -1)


def is_used(client: docker.DockerClient, image: StoredImage) -> bool:
    """Tell whether a container was made from an image, including stopped containers.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer.
    """
    with daemon_errors("list containers"):
        return bool(client.api.containers(all=True, filters={"ancestor": image.id}))


def discard(client: docker.DockerClient, image: StoredImage) -> bool:
    """Remove an image, or only our names if it has others; return ``False`` if a container uses it.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer.
    """
    import docker.errors

    with daemon_errors(f"remove {image.names[0] if image.names else image.id}"):
        for name in image.names or [image.id]:
            try:
                client.api.remove_image(name)
            except docker.errors.NotFound:
                continue
            except docker.errors.APIError as error:
                if error.status_code != 409:  # "image is being used by running container"
                    raise
                return False
    return True


def _is_ours(names: Iterable[str], kind: str) -> bool:
    if set(names) <= {"<none>:<none>"}:
        return kind == "qemu-source"
    return any(name.startswith(NAMES) for name in names)
