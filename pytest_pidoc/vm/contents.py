"""What is in a file of a guest: written and read as the node's user or as root.

A small script in the guest does it, since SFTP has only the rights of the user that logs in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_pidoc.errors import CopyError, SettingsError
from pytest_pidoc.guest.execution import Execution
from pytest_pidoc.values.checks import is_whole, shown

if TYPE_CHECKING:
    from pytest_pidoc.vm.vm import Vm

__all__ = ["read", "write"]

CHUNK = 1 << 16
LINES = 20  # of what the guest says, in an error
MOST_BITS = 0o7777
REASON = 100  # and the number of an error: the status of a script that knows why it gives up

_COMMON = f"""
may_not() {{ [ "$(id -u)" = 0 ] || exit {REASON + errno.EACCES}; }}
missing() {{
    case $(LC_ALL=C ls -d "$1" 2>&1) in *'Permission denied') may_not;; esac
    exit {REASON + errno.ENOENT}
}}
case $target in /*) ;; *) target=./$target;; esac
[ ! -d "$target" ] || exit {REASON + errno.EISDIR}
"""
#: A new file takes the old one's place. Where that cannot be, the old one is written to: a device, a file in /sys.
_WRITE = """
if [ -L "$target" ]; then target=$(readlink -f "$target") || missing "$target"; fi
folder=$(dirname "$target")
[ -d "$folder" ] || missing "$folder"
new=
give() {
    if [ -n "$owner" ]; then chown "$owner" "$1" || exit; fi
    if [ -n "$mode" ]; then chmod "$mode" "$1" || exit; fi
}
replaceable() {
    [ -e "$target" ] || return 0
    [ -f "$target" ] && { [ -O "$target" ] && [ -w "$target" ] || [ "$(id -u)" = 0 ]; }
}
trap '[ -z "$new" ] || rm -f "$new"' EXIT
trap 'exit 129' HUP INT PIPE TERM
if replaceable && new=$(mktemp "$folder/.pidoc-XXXXXX" 2>/dev/null); then
    cat >"$new" || exit
    [ "$(wc -c <"$new")" -eq "$size" ] || { echo 'not all of it has arrived' >&2; exit 1; }
    if [ -e "$target" ]; then
        chown "$(stat -c %u:%g "$target")" "$new" && chmod "$(stat -c %a "$target")" "$new" || exit
    else
        chmod 644 "$new" 2>/dev/null || :  # a file system without modes
    fi
    give "$new"
    mv -f "$new" "$target" && new=
elif [ -e "$target" ]; then
    new=
    [ -w "$target" ] || may_not
    cat >"$target" && give "$target"
else
    [ -w "$folder" ] || may_not
    new=$(mktemp "$folder/.pidoc-XXXXXX")  # to hear why not
    exit 1
fi
"""
_READ = """
[ -e "$target" ] || missing "$target"
[ -r "$target" ] || may_not
exec cat "$target"
"""


def write(
    vm: Vm, path: str | os.PathLike[str], content: str | bytes, *, sudo: bool, mode: int | None, owner: str | None
) -> None:
    """Write a file of a node; see ``Node.write``."""
    path = _path(path)
    if not isinstance(content, (str, bytes)):
        raise SettingsError(
            f"The content of {path} must be text or bytes, not {shown(content)}.",
            tip="call put() to copy a file or a file object",
        )
    if mode is not None and not is_whole(mode, 0, MOST_BITS):
        raise SettingsError(
            f"mode must be a whole number from 0 to 0o7777, not {shown(mode)}.",
            tip="pass the mode in octal: mode=0o600",
        )
    if owner is not None and not (isinstance(owner, str) and re.fullmatch(r"[\w.-]+(:[\w.-]+)?", owner, re.ASCII)):
        raise SettingsError(
            f"owner must be a user, or a user and a group, not {shown(owner)}.",
            tip='pass a name such as "www-data" or "root:adm"',
        )
    data = content.encode() if isinstance(content, str) else content
    given = {"owner": owner or "", "mode": "" if mode is None else format(mode, "o"), "size": str(len(data))}

    def send(execution: Execution) -> None:
        with contextlib.suppress(BrokenPipeError):  # the script's status and words say why
            execution.send(data, vm.check_running)
            execution.send_end()

    _run(vm, _WRITE, path, "written", send, sudo=sudo, collect=True, **given)


def read(vm: Vm, path: str | os.PathLike[str], *, sudo: bool) -> str:
    """Return the text in a file of a node; see ``Node.read``."""
    path, data = _path(path), bytearray()

    def receive(execution: Execution) -> None:
        while received := execution.receive(CHUNK, vm.check_running):
            data.extend(received)

    _run(vm, _READ, path, "read", receive, sudo=sudo, collect=False)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CopyError(
            f"{path} on {vm.name} is not text in UTF-8: the byte at {error.start} is 0x{data[error.start]:02x}.",
            tip=f"call get({path!r}, io.BytesIO()) for the bytes",
        ) from error


def _path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise SettingsError(
            f"The path must be a non-empty string, not {shown(path)}.", tip='pass a path such as "/etc/app.conf"'
        )
    return text


def _run(
    vm: Vm,
    script: str,
    path: str,
    done: str,
    move: Callable[[Execution], None],
    *,
    sudo: bool,
    collect: bool,
    **variables: str,
) -> None:
    """Run a script in the guest, and raise an error if it fails: *path* could not be *done*."""
    variables["target"] = path
    script = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()) + _COMMON + script
    failed = f"{path} on {vm.name} could not be {done}"
    with vm.naming_death(f"while {path} was {done}"):
        execution = Execution(vm.connection, script, root=bool(sudo), collect=collect)
        try:
            move(execution)
            execution.await_end(vm.check_running)
        finally:
            execution.close()
        if execution.status is None:
            raise ConnectionResetError(f"{failed}: the connection broke.")
    if not execution.status:
        return
    user, folder = vm.launch.image.manifest.user, posixpath.dirname(path)
    said = execution.stderr if execution.pid is not None else execution.preamble
    reason = execution.status - REASON
    if reason == errno.ENOENT and done == "written":
        tip = f"call {'sudo' if sudo else 'run'}({f'mkdir -p {shlex.quote(folder)}'!r}) first"
        raise FileNotFoundError(errno.ENOENT, f"There is no folder for this file on {vm.name}; {tip}", path)
    if reason == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, f"There is no such file on {vm.name}", path)
    if reason == errno.EISDIR:
        raise IsADirectoryError(errno.EISDIR, f"This is a folder on {vm.name}", path)
    if reason == errno.EACCES:
        raise PermissionError(errno.EACCES, f"{user} has no right to it on {vm.name}; pass sudo=True", path)
    raise CopyError(
        f"{failed}: status {execution.status} in the guest.",
        evidence="\n".join(said.rstrip().splitlines()[-LINES:]),
        tip=f"check that {user} can use sudo without a password in the guest" if execution.pid is None else "",
    )
