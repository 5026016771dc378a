"""What came of a call on several nodes: a result of each, or one error that names those that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fabric import Connection, GroupResult
from fabric.exceptions import GroupException
from invoke.exceptions import CommandTimedOut, Failure

from pytest_pidoc.errors import KernelPanic, NodeDied, NodeRestarted
from pytest_pidoc.guest.serial_log import plain
from pytest_pidoc.guest.ssh_signals import give_up
from pytest_pidoc.node import Node

__all__ = ["NodesFailed", "Results", "on_all"]

LINES = 10  # of a node's stdout and of its stderr, in a message
DIFFERENT = 10  # how many different failures a message shows


class Results(GroupResult):  # type: ignore[misc] # Fabric has no types
    """The results of the nodes, in their order: a ``fabric.GroupResult`` that a node or its name opens, too.

    ::

        results = cluster.run("hostname")
        assert results["pi-2"].stdout == results[cluster[1]].stdout

    The keys are the nodes' connections, as in Fabric.
    """

    def __init__(self, outcomes: Mapping[Connection, Any], names: Mapping[Connection, str]) -> None:
        super().__init__(outcomes)
        self._names = dict(names)

    @property
    def by_name(self) -> dict[str, Any]:
        """The results by the names of the nodes: ``{"pi-1": <Result ...>}``."""
        return {self._names[connection]: outcome for connection, outcome in self.items()}

    @property
    def succeeded(self) -> Results:
        """The results of the nodes on which nothing was raised."""
        return self._only(lambda outcome: not isinstance(outcome, BaseException))

    @property
    def failed(self) -> Results:
        """The exceptions of the nodes on which something was raised."""
        return self._only(lambda outcome: isinstance(outcome, BaseException))

    def get(self, key: object, default: Any = None) -> Any:
        """Return the result of a node, or *default* if it has none."""
        try:
            return self[key]
        except KeyError:
            return default

    def _only(self, wanted: Callable[[Any], bool]) -> Results:
        return Results({connection: outcome for connection, outcome in self.items() if wanted(outcome)}, self._names)

    def __missing__(self, key: object) -> Any:
        found = self.by_name
        for name, outcome in found.items():
            if name == _name(key):
                return outcome
        raise KeyError(f"{_name(key)!r} has no result here; these have: {', '.join(found) or 'none'}")

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or _name(key) in self.by_name


class NodesFailed(GroupException):  # type: ignore[misc] # Fabric has no types
    """A call on several nodes failed on some of them: the message has their names, statuses and last lines.

    It is a ``fabric.exceptions.GroupException``.

    Parameters
    ----------
    what
        What was done: ``'uname -a'``.
    result
        The `Results`: of each node its result, or the exception that was raised.
    """

    def __init__(self, what: str, result: Results) -> None:
        super().__init__(result)
        self.what = what

    def __str__(self) -> str:
        failed = self.result.failed.by_name
        alike: dict[str, list[str]] = {}
        for name, error in failed.items():
            alike.setdefault(_described(error), []).append(name)
        parts = [f"{self.what} failed on {len(failed)} of {len(self.result)} nodes: {', '.join(failed)}."]
        parts += [f"{', '.join(names)}: {text}" for text, names in list(alike.items())[:DIFFERENT]]
        if len(alike) > DIFFERENT:
            parts.append(f"{len(alike) - DIFFERENT} more failures are left out here; the error's result has all.")
        return "\n".join(parts)


def on_all(nodes: Sequence[Node], call: Callable[[Node], Any], what: str) -> Results:
    """Call a function for each node, side by side, and return when all calls have ended.

    If the wait is interrupted, by Ctrl-C or by the time limit of a test, the calls end: the commands are ended on the
    nodes, and the connections are closed.

    Raises
    ------
    NodeDied, KernelPanic, NodeRestarted
        A node ended before its call did, its kernel panicked, or its guest restarted.
    NodesFailed
        A call failed.
    """
    __tracebackhide__ = True  # the test's own line is what a user wants to see
    pool = ThreadPoolExecutor(max_workers=max(1, len(nodes)), thread_name_prefix="pidoc-group")
    try:
        calls = [pool.submit(call, node) for node in nodes]
        outcomes = [_outcome(each) for each in calls]
    except BaseException:
        with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as others:
            for node in nodes:
                others.submit(_give_up, node)
        raise
    finally:
        pool.shutdown(wait=False)
    for outcome in outcomes:
        if isinstance(outcome, (KernelPanic, NodeDied, NodeRestarted)):
            raise outcome
    connections = [node.connection for node in nodes]
    names = [node.name for node in nodes]
    results = Results(dict(zip(connections, outcomes, strict=True)), dict(zip(connections, names, strict=True)))
    if results.failed:
        raise NodesFailed(what, results)
    return results


def _give_up(node: Node) -> None:
    with contextlib.suppress(NodeDied, OSError):
        give_up(node.connection)


def _outcome(call: Future[Any]) -> Any:
    """Wait for the end of a call, and return what it returned or raised."""
    return call.exception() or call.result()


def _name(key: object) -> object:
    """Return the name of a node, or what else somebody looks for."""
    return key.name if isinstance(key, Node) else key


def _described(error: BaseException) -> str:
    """Return how a call failed; if it was a command, with the last lines that it printed."""
    if not isinstance(error, Failure):
        return f"{type(error).__name__}: {error}"
    result = error.result
    if isinstance(error, CommandTimedOut):
        how = f"not finished after {error.timeout:g} s"
    elif result.exited is None or result.exited < 0:
        how = "no exit status, because the connection broke"
    else:
        how = f"exit status {result.exited}"
    lines = [line for stream in (result.stdout, result.stderr) for line in plain(stream, LINES).splitlines()]
    return "\n".join([how, *(f"    {line}" for line in lines or ["(no output)"])])
