"""What an image is: a directory of files that a node boots from, and the manifest with their checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import ImageError
from pytest_pidoc.host import documents
from pytest_pidoc.values.checks import is_whole, shown

__all__ = ["MANIFEST", "Image", "ImageFile", "Manifest", "Source"]

MANIFEST = "manifest.json"
_NAME = re.compile(r"(?:(?!\.\.?/)[^/\0]+/)?(?!\.\.?$)[^/\0]+", re.DOTALL)  # of a file, in one folder at most
FORMAT = 1


@dataclass(frozen=True)
class ImageFile:
    """One file of an image: its name in the image's directory, its size in bytes, its SHA-256 in hex.

    The name can have a folder: ``pi-1/ram``.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Something that an image was made from: a package or a download, its version and its SHA-256 in hex."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes
    ----------
    recipe
        What the user chose, in the form of ``--pidoc-image``: ``debian:bookworm``.
    architecture
        Debian's name of the guest's architecture.
    key
        The content address: SHA-256 of everything that determines what the image holds.
    files
        The parts by role: ``kernel``, ``initrd``, ``disk``, ``private_key`` ...
    user
        Who logs in over SSH.
    host_keys
        The node's public SSH host keys, in ``known_hosts`` form without the host: ``ssh-ed25519 AAAA...``.
    append
        Kernel arguments that the guest needs in addition to those of the model.
    partition
        The number of the disk's root partition; 0 if the disk has no partition table.
    stock
        Whether it is somebody else's image, changed as little as possible: it is not tuned to boot fast, and gets its
        address by DHCP.
    password
        The user's password on the serial console, if it asks for one; SSH does not accept it.
    created
        When it was built, ISO 8601 in UTC.
    versions
        Versions of the guest's main programs and of the tools that built it.
    sources
        Everything it was made from.
    """

    recipe: str
    architecture: str
    key: str
    files: dict[str, ImageFile]
    user: str
    host_keys: tuple[str, ...]
    append: str = ""
    partition: int = 0
    stock: bool = False
    password: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    @property
    def content(self) -> str:
        """SHA-256 over that of each file. Two builds of one recipe have one key, but not one content."""
        sums = {role: file.sha256 for role, file in self.files.items()}
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a ``manifest.json``.

        Raises
        ------
        ImageError
            It is not JSON, has another format, or lacks a field.
        """
        try:
            return cls.from_data(documents.parse(text))
        except ValueError as error:
            raise ImageError(f"Cannot read the manifest: {error}.") from error

    @classmethod
    def from_data(cls, data: Any) -> Manifest:
        """Read what a ``manifest.json`` says.

        Raises
        ------
        ImageError
            It has another format, lacks a field, or a field is invalid.
        """
        try:
            data = dict(data)
            if (found := data.pop("format")) != FORMAT:
                raise ImageError(f"The manifest has format {shown(found)}; this version supports only format {FORMAT}.")
            data["files"] = {role: ImageFile(**entry) for role, entry in data["files"].items()}
            data["host_keys"] = tuple(data["host_keys"])
            data["sources"] = tuple(Source(**entry) for entry in data["sources"])
            manifest = cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(f"Cannot read the manifest: {shown(error)}.") from error
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Refuse fields of a wrong type, and files outside of the image's directory."""
        texts = [self.recipe, self.architecture, self.key, self.user, self.append, self.password, self.created]
        texts += [*self.host_keys, *(text for source in self.sources for text in dataclasses.astuple(source))]
        texts += [*(text for file in self.files.values() for text in (file.name, file.sha256))]
        if not isinstance(self.versions, dict) or not all(
            isinstance(text, str) for text in [*texts, *self.versions.values()]
        ):
            raise ImageError(
                "The manifest has an invalid entry: a number, list or other value where a text is required."
            )
        if not is_whole(self.partition, 0, 128) or not isinstance(self.stock, bool):
            raise ImageError(
                f"The manifest has an invalid entry: partition {shown(self.partition)} (must be a whole number from 0 "
                f"to 128) or stock {shown(self.stock)} (must be true or false)."
            )
        for file in self.files.values():
            if not is_whole(file.size, 0, 1 << 60) or not _NAME.fullmatch(file.name):
                raise ImageError(
                    f"The manifest has an invalid entry: file {shown(file.name)}, size {shown(file.size)}."
                )


@dataclass(frozen=True)
class Image:
    """A finished image: never changed, only read. Nodes write to overlays of its disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def read(cls, path: Path) -> Image:
        """Return the image in the directory *path*, without checking its files.

        Raises
        ------
        ImageError
            Its manifest is missing or invalid.
        """
        try:
            return cls(path, Manifest.from_data(documents.read(path / MANIFEST)))
        except (OSError, ValueError, ImageError) as error:
            raise ImageError(
                f"The manifest of the image in {path} is missing or invalid: {error}",
                tip=f"remove {path}; the image is rebuilt when needed",
            ) from error

    def file(self, role: str) -> Path:
        """Return where the part with that *role* is, e.g. ``image.file("kernel")``.

        Raises
        ------
        ImageError
            The image has no such part.
        """
        try:
            return self.path / self.manifest.files[role].name
        except KeyError:
            raise ImageError(f"The image {self.manifest.recipe} in {self.path} does not contain a {role}.") from None

    def __str__(self) -> str:
        return f"{self.manifest.recipe} for {self.manifest.architecture} ({self.manifest.key[:12]})"
