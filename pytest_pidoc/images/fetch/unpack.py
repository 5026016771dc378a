"""Unpacking a disk image from a zip archive, xz or gzip, or copying it; with limits, and without filling holes."""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.store.cache import FREE_SPACE
from pytest_pidoc.values.checks import listed, shown

__all__ = ["LIMITS", "Limits", "unpack"]

BLOCK = 1 << 16  # bytes: a block of zeros becomes a hole
CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The limits of unpacking.

    Attributes
    ----------
    size
        Largest size of the unpacked file, in bytes.
    ratio
        Largest ratio of unpacked to packed size...
    harmless
        ... for files that unpack to more than this number of bytes.
    memory
        Largest memory of the decompressor, in bytes.
    room
        Bytes of the disk that are left free.
    """

    size: int = 128 * 1024**3
    ratio: float = 2000
    harmless: int = 1024**3
    memory: int = 1024**3
    room: int = 256 * 1024**2


LIMITS = Limits()

_KINDS = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\xfd7zXZ\0": "xz", b"\x1f\x8b": "gz"}
_OTHERS = {
    b"QFI\xfb": ("a qcow2 image", "qemu-img convert -O raw IMAGE disk.img"),
    b"BZh": ("packed with bzip2", "bunzip2 IMAGE"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unzstd IMAGE"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x IMAGE"),
    b"Rar!": ("a rar archive", "unrar x IMAGE"),
}
# zipfile raises the last three, of names and sizes that are damaged.
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, gzip.BadGzipFile),
    *(ValueError, RuntimeError, struct.error),
)


def unpack(source: Path, target: Path, *, member: str = "*.img", limits: Limits = LIMITS) -> None:
    """Write the content of *source* to *target*. The first bytes of *source* tell its format; it is only read.

    Parameters
    ----------
    source
        A zip archive, an ``.xz`` or ``.gz`` file, or anything else, which is copied.
    target
        A new file; its long runs of zeros become holes.
    member
        Which file of a zip archive, as a pattern for its name; exactly one must match.
    limits
        The largest size and memory.

    Raises
    ------
    ImageError
        It is damaged, exceeds the limits, has an unsupported format, or the disk is full; or the archive has a member
        outside of itself, or not exactly one member that matches.
    """
    try:
        with source.open("rb") as packed:
            start = packed.read(8)
            for magic, (kind, command) in _OTHERS.items():
                if start.startswith(magic):
                    raise ImageError(
                        f"{source} is {kind}, which pidoc cannot unpack.",
                        tip=f"run {command} and use the unpacked file",
                    )
            packed.seek(0)
            kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), "plain")
            with contextlib.ExitStack() as stack:
                size = os.fstat(packed.fileno()).st_size
                if kind == "plain" and size > limits.size:
                    raise _too_large(source, limits.size)
                if kind == "zip":
                    chunks, size = _zip(stack, source, packed, member)
                else:
                    chunks = {"xz": _xz, "gz": _gz, "plain": _plain}[kind](packed, limits)
                most = min(limits.size, max(limits.harmless, int(size * limits.ratio)))
                _write(chunks, target, most=most, limits=limits, source=source)
    except _FAULTS as error:
        raise ImageError(
            f"Cannot unpack {source}: {str(error)[:200] or type(error).__name__}.",
            tip="download or copy it again; it seems to be damaged",
        ) from error
    except OSError as error:
        raise ImageError(
            f"Cannot unpack {source} to {target.parent}: {error.strerror}.",
            tip=FREE_SPACE,
        ) from error


def _zip(stack: contextlib.ExitStack, source: Path, packed: IO[bytes], pattern: str) -> tuple[Iterator[bytes], int]:
    """Return the content of the member that matches, and its packed size."""
    archive = stack.enter_context(zipfile.ZipFile(packed))
    found = []
    for info in archive.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        kind = stat.S_IFMT(info.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0].endswith(":"):
            raise ImageError(
                f"{source} was not unpacked: its member {shown(info.filename)} would lie outside of the target.",
                tip="use an archive from a source that you trust",
            )
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ImageError(
                f"{source} was not unpacked: its member {shown(info.filename)} is not a regular file.",
                tip="use an archive that contains only files and folders",
            )
        if not info.is_dir() and path.match(pattern):
            found.append(info)
    if len(found) != 1:
        names = listed(info.filename for info in found) or "none"
        raise ImageError(f"{source} must contain exactly one file {pattern}, but contains {names}.")
    (info,) = found
    if info.flag_bits & 1:
        raise ImageError(f"{info.filename} in {source} is encrypted.", tip="unzip it and use the unpacked file")
    stream = stack.enter_context(archive.open(info))
    return _read(stream), info.compress_size


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def _plain(packed: IO[bytes], limits: Limits) -> Iterator[bytes]:
    return _read(packed)


def _gz(packed: IO[bytes], limits: Limits) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed) as stream:
        yield from _read(stream)  # type: ignore[arg-type]


def _xz(packed: IO[bytes], limits: Limits) -> Iterator[bytes]:
    """Yield the content of one or several xz streams; ``lzma.open`` would not bound the memory."""
    decompressor = None
    data = b""
    while True:
        data = data or packed.read(CHUNK)
        if decompressor is None:
            data = data.lstrip(b"\0")  # what pads one stream to the next
            if not data:
                if not (data := packed.read(CHUNK)):
                    return
                continue
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.memory)
        elif not data and decompressor.needs_input:
            raise EOFError("the file is truncated")
        yield decompressor.decompress(data, CHUNK)
        data = b""
        if decompressor.eof:
            data, decompressor = decompressor.unused_data, None


def _write(chunks: Iterator[bytes], target: Path, *, most: int, limits: Limits, source: Path) -> None:
    """Write *chunks* to a file, zeros as holes; check the free disk space from time to time."""
    size = written = 0
    with target.open("xb") as stream:
        for chunk in chunks:
            if size + len(chunk) > most:
                raise _too_large(source, most)
            for start in range(0, len(chunk), BLOCK):
                block = chunk[start : start + BLOCK]
                if block.count(0) == len(block):
                    stream.seek(len(block), os.SEEK_CUR)
                    continue
                stream.write(block)
                written += len(block)
                if written > 64 * CHUNK:
                    written = 0
                    _require_room(stream, target, limits)
            size += len(chunk)
        stream.truncate(size)


def _too_large(source: Path, most: int) -> ImageError:
    return ImageError(
        f"{source} is too large: it must unpack to at most {most / 1e6:.0f} MB.",
        tip="if you trust the file, unpack it yourself and use the unpacked file",
    )


def _require_room(stream: IO[bytes], target: Path, limits: Limits) -> None:
    status = os.fstatvfs(stream.fileno())
    if status.f_bavail * status.f_frsize < limits.room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
