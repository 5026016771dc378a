"""Copies of files and folders to a guest and from it.

Single files go through Fabric, by SFTP. A folder is one stream of tar: with SFTP, an emulated guest would have to
answer several requests for each file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import shlex
import tarfile
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import BootError, CopyError
from pytest_pidoc.guest.execution import CHECK_INTERVAL, Execution
from pytest_pidoc.values.progress import CopyProgress

if TYPE_CHECKING:
    from fabric.transfer import Transfer

    from pytest_pidoc.vm.vm import Vm

__all__ = ["get", "put"]

BLOCK = 512  # bytes: each file in an archive has one before it, and is filled up to whole ones
RECORD = 1 << 16  # bytes that are sent at a time
LINES = 20  # of what tar says, in an error
GZIP = 31  # zlib's number for that format
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)

_RECEIVE = """
target={target}
[ ! -d "$target" ] || target=$target/{name}
[ -d "$target" ] || mkdir -- "$target" || exit
cd -- "$target" && pwd && exec tar -x{packed} -p --no-same-owner -f -
"""
_SEND = "cd -- {source} && exec tar -c{packed} -f - ."


class _Unsent(Exception):
    """The guest takes no more: tar or the connection has ended."""


def put(vm: Vm, local: Any, remote: str | None, **kwargs: Any) -> Any:
    """Copy a file or a folder to a node; see ``Node.put``."""
    if isinstance(local, os.PathLike):
        local = os.fspath(local)
    name = local if isinstance(local, str) else str(getattr(local, "name", "a file object"))
    if isinstance(local, str) and local:
        _require(local)
        if Path(local).is_dir():
            _refuse("put", kwargs)
            with vm.naming_death(f"while it received {local}"):
                return _put_folder(vm, local, remote or ".")
    with vm.naming_death(f"while it received {name}"), _watched(vm), vm.transfers:
        return _transfer(vm, f"{name} to {vm.name}").put(local, remote, **kwargs)


def get(vm: Vm, remote: str, local: Any, **kwargs: Any) -> Any:
    """Copy a file or a folder from a node; see ``Node.get``."""
    if isinstance(local, os.PathLike):
        local = os.fspath(local)
    with vm.naming_death(f"while it sent {remote}"), _watched(vm):
        with vm.transfers:
            transfer = _transfer(vm, f"{remote} from {vm.name}")
            if not remote or not transfer.is_remote_dir(remote):
                return transfer.get(remote, local, **kwargs)
            absolute = transfer.sftp.normalize(remote)
        _refuse("get", kwargs)
        if local is not None and not isinstance(local, str):
            raise IsADirectoryError(errno.EISDIR, f"A folder of {vm.name} needs a folder on the host", remote)
        return _get_folder(vm, remote, local or ".", absolute)


@contextlib.contextmanager
def _watched(vm: Vm) -> Iterator[None]:
    """Close the connection if the guest restarts or panics meanwhile: a transfer by SFTP would wait for ever."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(CHECK_INTERVAL):
            try:
                vm.check_running()
            except BootError:
                vm.hang_up()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _put_folder(vm: Vm, local: str, remote: str) -> Any:
    from fabric.transfer import Result

    folder, packed = Path(os.path.abspath(local)), _packs(vm)  # noqa: PTH100 # resolve() would rename a link
    progress = CopyProgress(vm.progress, f"{local} to {vm.name}", _size(folder))
    script = _RECEIVE.format(target=shlex.quote(remote), name=shlex.quote(folder.name), packed="z" * packed)
    execution = Execution(vm.connection, script)
    try:
        sender = _Sender(execution, vm, progress, packed=packed)
        try:
            with tarfile.TarFile(fileobj=sender, mode="w", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[arg-type] # it writes and tells
                archive.add(folder.resolve(), arcname=".", filter=_entry)
            sender.finish()
        except _Unsent:
            pass  # tar's status and words say why
        _finish(vm, execution, f"{local} could not be copied to {remote} on {vm.name}")
    finally:
        execution.close()
    target = execution.stdout.splitlines()[0]
    return Result(orig_remote=remote, remote=target, orig_local=local, local=str(folder), connection=vm.connection)


def _get_folder(vm: Vm, remote: str, local: str, absolute: str) -> Any:
    from fabric.transfer import Result

    target, packed = Path(local), _packs(vm)
    if target.is_dir():
        target /= posixpath.basename(absolute) or vm.name
    target.mkdir(parents=True, exist_ok=True)
    execution = Execution(vm.connection, _SEND.format(source=shlex.quote(remote), packed="z" * packed), collect=False)
    receiver = _Receiver(execution, vm, CopyProgress(vm.progress, f"{remote} from {vm.name}"), packed=packed)
    damage: Exception | None = None
    try:
        try:
            with tarfile.open(fileobj=receiver, mode="r|") as archive:  # type: ignore[call-overload] # it reads
                archive.extraction_filter = lambda member, _: member
                archive.extractall(target, members=_entries(archive, target.resolve()))  # noqa: S202 # they were looked at
            while receiver.read(RECORD):  # what fills the last record
                pass
        except (tarfile.ReadError, zlib.error) as error:
            damage = error  # tar's status and words say more
            execution.close()
        _finish(vm, execution, f"{remote} on {vm.name} could not be copied to {local}")
    finally:
        execution.close()
    if damage is not None:
        raise CopyError(f"{remote} on {vm.name} could not be copied to {local}: {damage}.") from damage
    where = str(target.absolute())
    return Result(orig_remote=remote, remote=absolute, orig_local=local, local=where, connection=vm.connection)


def _entry(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info if info.type in KINDS else None


def _entries(archive: tarfile.TarFile, target: Path) -> Iterator[tarfile.TarInfo]:
    """Yield what may be unpacked: nothing outside of the folder, and nothing through a link that leads out of it."""
    for member in archive:
        written = Path(member.name).parent if member.issym() else Path(member.name)
        places = [written] + [Path(member.linkname)] * member.islnk()
        if any(not (target / place).resolve().is_relative_to(target) for place in places):
            raise CopyError(f"The guest has sent {member.name}, which is not in the folder.")
        if member.type in KINDS:
            member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
            yield member


def _finish(vm: Vm, execution: Execution, failed: str) -> None:
    """Wait until tar has ended, and raise an error if it failed."""
    execution.await_end(vm.check_running)
    if execution.status is None:
        raise ConnectionResetError(f"{failed}: the connection broke.")
    if execution.status:
        said = "\n".join(execution.stderr.rstrip().splitlines()[-LINES:])
        raise CopyError(f"{failed}: status {execution.status} in the guest.", evidence=said)


class _Sender:
    """The file that an archive is written to: the standard input of tar in the guest."""

    def __init__(self, execution: Execution, vm: Vm, progress: CopyProgress, *, packed: bool) -> None:
        self._execution = execution
        self._vm = vm
        self._progress = progress
        self._packer = zlib.compressobj(wbits=GZIP) if packed else None
        self._buffer = bytearray()
        self._written = 0

    def tell(self) -> int:
        return self._written

    def write(self, data: bytes) -> int:
        self._buffer += data
        self._written += len(data)
        if len(self._buffer) >= RECORD:
            self._flush()
        return len(data)

    def finish(self) -> None:
        self._flush()
        if self._packer is not None:
            self._send(self._packer.flush())
        self._execution.send_end()

    def _flush(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        self._send(data if self._packer is None else self._packer.compress(data))
        self._progress.add(len(data))

    def _send(self, data: bytes) -> None:
        try:
            self._execution.send(data, self._vm.check_running)
        except OSError as error:
            raise _Unsent from error


class _Receiver:
    """The file that an archive is read from: the standard output of tar in the guest."""

    def __init__(self, execution: Execution, vm: Vm, progress: CopyProgress, *, packed: bool) -> None:
        self._execution = execution
        self._vm = vm
        self._progress = progress
        self._unpacker = zlib.decompressobj(wbits=GZIP) if packed else None

    def read(self, size: int) -> bytes:
        while True:
            data = self._execution.receive(size, self._vm.check_running)
            unpacked = data if self._unpacker is None else self._unpacker.decompress(data)
            self._progress.add(len(unpacked))
            if unpacked or not data:
                return unpacked


class _Sftp:
    """An SFTP client that reports how far its copies are, and makes no file of what is not in the guest."""

    def __init__(self, sftp: Any, progress: CopyProgress, name: str) -> None:
        self._sftp = sftp
        self._progress = progress
        self._name = name

    def get(self, remotepath: str, localpath: str) -> None:
        try:
            self._sftp.open(remotepath).close()  # paramiko first opens the file on the host, and leaves it there
        except (FileNotFoundError, PermissionError) as error:  # without a path, and with few words
            raise type(error)(error.errno, f"{error.strerror} on {self._name}", remotepath) from None
        existed = os.path.lexists(localpath)
        try:
            self._sftp.get(remotepath, localpath, callback=self._progress.at)
        except BaseException:
            if not existed:
                with contextlib.suppress(OSError):
                    os.remove(localpath)  # noqa: PTH107 # as Fabric calls it
            raise

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sftp, name)
        return partial(found, callback=self._progress.at) if name in {"put", "putfo", "getfo"} else found


def _transfer(vm: Vm, what: str) -> Transfer:
    """Return Fabric's transfer of a file, which reports how far it is."""
    from fabric.transfer import Transfer

    class Reporting(Transfer):  # type: ignore[misc] # Fabric has no types
        sftp = _Sftp(vm.connection.sftp(), CopyProgress(vm.progress, what), vm.name)

    return Reporting(vm.connection)


def _packs(vm: Vm) -> bool:
    """Tell whether compressing saves time: 1.7 MB of programs took 5 s to a pi0, and 16 s as they are."""
    return not vm.launch.machine.network.startswith("virtio")


def _require(local: str) -> None:
    if not Path(local).exists():
        where = "" if Path(local).is_absolute() else f"; the current directory is {Path.cwd()}"
        raise FileNotFoundError(errno.ENOENT, f"There is no such file or folder on the host{where}", local)


def _refuse(call: str, kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"{call}() of a folder takes no {', '.join(kwargs)}; the modes are kept")


def _size(folder: Path) -> int:
    """Return about how many bytes the folder's archive has."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            size = os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 # of many files
            total += BLOCK + -(-size // BLOCK) * BLOCK
    return total
