"""What a test does with all nodes of a cluster at once."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.node import Node
from pytest_pidoc.values.checks import shown

if TYPE_CHECKING:  # Fabric takes 0.2 s to import: only when a connection is made
    from pytest_pidoc.group.results import Results

__all__ = ["Nodes"]

NAME = "{name}"  # in a path on the host: the name of the node


class Nodes(Sequence[Node]):
    """A sequence of nodes, and what is done on all of them, side by side.

    Each call returns when all nodes have finished, and has a result for each node.
    """

    def run(self, command: str, **kwargs: Any) -> Results:
        """Run a shell command on all nodes; the arguments are those of ``fabric.Connection.run``.

        Returns
        -------
        Results
            The result of each node: ``results["pi-2"].stdout``, or ``results[pi]``. With ``asynchronous=True``,
            a promise of it: ``results["pi-2"].join().stdout``.

        Raises
        ------
        NodeDied, KernelPanic, NodeRestarted
            A node ended before its command did, its kernel panicked, or its guest restarted.
        NodesFailed
            The command failed on a node, unless ``warn=True``.
        """
        __tracebackhide__ = True
        return self._on_all(lambda node: node.run(command, **kwargs), shown(command))

    def sudo(self, command: str, **kwargs: Any) -> Results:
        """Run a command as root, or as ``user=``, on all nodes; otherwise like `run`."""
        __tracebackhide__ = True
        return self._on_all(lambda node: node.sudo(command, **kwargs), f"sudo {shown(command)}")

    def put(self, local: Any, remote: str | None = None, **kwargs: Any) -> Results:
        """Copy a file to all nodes; the arguments are those of `Node.put`.

        Raises
        ------
        OSError
            The host's file cannot be read.
        NodeDied, KernelPanic, NodeRestarted
            A node ended meanwhile, its kernel panicked, or its guest restarted.
        NodesFailed
            It could not be written on a node.
        """
        __tracebackhide__ = True
        if hasattr(local, "read"):
            copies = [_copy(local) for _ in self]  # a position of its own for each node
        else:
            Path(local).stat()  # what is not there is missing for all nodes
            copies = [local for _ in self]
        each = dict(zip((node.name for node in self), copies, strict=True))
        return self._on_all(lambda node: node.put(each[node.name], remote, **kwargs), f"put of {shown(local)}")

    def get(self, remote: str, local: str | Path = f"{NAME}/", **kwargs: Any) -> Results:
        """Copy a file from all nodes, each to a path of its own.

        ::

            cluster.get("/var/log/app.log", "logs/{name}.log")  # logs/pi-1.log, logs/pi-2.log, ...
            cluster.get("/var/log/app.log", tmp_path)  # tmp_path/pi-1/app.log, tmp_path/pi-2/app.log, ...

        Parameters
        ----------
        remote
            The path on the nodes.
        local
            The path on the host. In it ``{name}`` stands for the name of the node. A folder, which is there or ends in
            ``/``, gets a folder for each node. Missing folders are made, and a file that is there is replaced.
        **kwargs
            The other arguments of `Node.get`.

        Raises
        ------
        SettingsError
            Several nodes would write to the same file.
        NodeDied, KernelPanic, NodeRestarted
            A node ended meanwhile, its kernel panicked, or its guest restarted.
        NodesFailed
            It could not be read on a node, or not be written on the host.
        """
        __tracebackhide__ = True
        place = self._place(local)
        return self._on_all(
            lambda node: node.get(remote, place.replace(NAME, node.name), **kwargs), f"get of {shown(remote)}"
        )

    def _on_all(self, call: Callable[[Node], Any], what: str) -> Results:
        __tracebackhide__ = True
        from pytest_pidoc.group.results import on_all

        return on_all(tuple(self), call, what)

    def _place(self, local: object) -> str:
        """Return where on the host each node writes to: a path with `NAME` in it, if there are several nodes."""
        tip = f"use a folder, or a path with {NAME} in it, such as 'logs/{NAME}.log'"
        if not isinstance(local, (str, os.PathLike)):
            raise SettingsError(f"local: {len(self)} nodes cannot write to {shown(local)}.", tip=tip)
        path = os.fspath(local)
        if NAME not in path and (path.endswith("/") or Path(path).is_dir()):
            path = f"{path.rstrip('/')}/{NAME}/"
        if NAME not in path and len(self) > 1:
            raise SettingsError(
                f"local: {len(self)} nodes would write to the same file, {shown(path)}, and only one copy be left.",
                tip=tip,
            )
        return path


def _copy(stream: Any) -> io.BytesIO | io.StringIO:
    """Return a stream with the same content and name, and leave the position in that one."""
    position = stream.tell()
    stream.seek(0)
    content = stream.read()
    stream.seek(position)
    copy = io.StringIO(content) if isinstance(content, str) else io.BytesIO(content)
    if hasattr(stream, "name"):  # what it is called in a folder
        copy.name = stream.name
    return copy
