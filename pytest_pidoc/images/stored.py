"""The container images of ours that a daemon stores: listed by their label, and removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pidoc.dockerd import GUEST_LABEL, IMAGE_LABEL, daemon_errors

if TYPE_CHECKING:
    import docker

__all__ = ["StoredImage", "discard", "stored"]


@dataclass(frozen=True)
class StoredImage:
    """A container image of ours, as the daemon lists it.

    Attributes
    ----------
    id
        The daemon's id.
    kind
        ``pidoc``, ``pidoc-vm``, ``base``, or ``qemu-source`` for what an interrupted build left.
    names
        What it is called; nothing for what an interrupted build left.
    guest
        The key of the guest in it, or nothing.
    size
        In bytes, with the layers that it shares with others.
    created
        When it was made, in seconds since 1970.
    """

    id: str
    kind: str
    names: tuple[str, ...]
    guest: str
    size: int
    created: int


def stored(client: docker.DockerClient) -> list[StoredImage]:
    """Return all container images of ours, those first that are built on others.

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
            names=tuple(name for name in entry["RepoTags"] or () if name != "<none>:<none>"),
            guest=entry["Labels"].get(GUEST_LABEL, ""),
            size=entry["Size"],
            created=entry["Created"],
        )
        for entry in found
    ]
    order = ["pidoc", "pidoc-vm", "qemu-source", "base"]
    return sorted(images, key=lambda image: order.index(image.kind) if image.kind in order else -1)


def discard(client: docker.DockerClient, image: StoredImage) -> bool:
    """Remove an image and its names; tell whether it is gone. One that a container uses stays.

    Raises
    ------
    EngineUnavailable
        The daemon does not answer.
    """
    import docker.errors

    with daemon_errors(f"remove {image.names[0] if image.names else image.id}"):
        for name in [*image.names, image.id]:
            try:
                client.api.remove_image(name)
            except docker.errors.NotFound:
                continue
            except docker.errors.APIError as error:
                if error.status_code != 409:  # "image is being used by running container"
                    raise
                return False
    return True
