"""Nodes that log in to each other over SSH: one key for the cluster, and the host keys of all its nodes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_pidoc.errors import PidocError
from pytest_pidoc.group.results import NodesFailed, on_all
from pytest_pidoc.guest.identity import make_key
from pytest_pidoc.host import documents
from pytest_pidoc.node import Node

__all__ = ["establish"]

KEY = "trust.json"  # in the cluster's directory: the key pair, so that each call and each process gives the same
MARK = "pidoc-trust"  # the comment of our lines in files that may have others

#: Run on each node as the user who logs in. What others have put into the files stays.
_SCRIPT = """
set -e; umask 077; mkdir -p ~/.ssh; cd ~/.ssh
if [ -e id_ed25519 ] && [ "$(cat id_ed25519)" != "$key" ]; then echo "$PWD/id_ed25519 is another key" >&2; exit 1; fi
put() { cat > ".$1.$$"; mv ".$1.$$" "$1"; }
add() { { grep -v " $mark\\$" "$1" 2>/dev/null || true; printf '%s\\n' "$2"; } | put "$1"; }
printf '%s\\n' "$key" | put id_ed25519
printf '%s\\n' "$public" | put id_ed25519.pub
add authorized_keys "$public"
add known_hosts "$hosts"
"""


def establish(
    nodes: Sequence[Node],
    host_keys: Mapping[str, Sequence[str]],
    directory: Path,
    *,
    host_names: Mapping[str, str] | None = None,
) -> None:
    """Let the user of each node log in to every node, by its names and by its address in the LAN.

    Parameters
    ----------
    nodes
        All nodes of a cluster that has a LAN.
    host_keys
        Their public host keys by their names.
    directory
        The cluster's.
    host_names
        Their guests' host names by their names, if these differ.

    Raises
    ------
    PidocError
        A node could not be changed; the message shows why.
    NodeDied, KernelPanic
        A node ended meanwhile, or its kernel panicked.
    """
    private, public = _cluster_key(directory)
    known = []
    for node in nodes:
        names = dict.fromkeys(filter(None, (node.name, (host_names or {}).get(node.name))))
        places = [*(place for name in names for place in (name, f"{name}.local")), node.lan_address]
        known += [f"{','.join(map(str, places))} {key} {MARK}" for key in host_keys[node.name]]

    def script(node: Node) -> str:
        itself = [f"localhost,127.0.0.1,::1 {key} {MARK}" for key in host_keys[node.name]]
        values = {"key": private, "public": f"{public} {MARK}", "hosts": "\n".join([*known, *itself]), "mark": MARK}
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()) + _SCRIPT

    try:
        on_all(nodes, lambda node: node.run(script(node)), "trust()")
    except NodesFailed as error:
        raise PidocError(str(error), tip="rename a key of your own in ~/.ssh before the call") from None


def _cluster_key(directory: Path) -> tuple[str, str]:
    """Return the private and the public key of the cluster in that directory, made by whoever comes first.

    It is not the key with which tests log in, which never gets onto a node.
    """
    path = directory / KEY
    if not path.exists():
        private, public = make_key()
        fresh = directory / f".{KEY}.{secrets.token_hex(8)}"
        documents.write(fresh, json.dumps([private.strip(), public.strip()]), mode=0o600)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # unlike a rename it leaves the key of another process
        fresh.unlink()
    private, public = documents.read(path)
    return private, public
