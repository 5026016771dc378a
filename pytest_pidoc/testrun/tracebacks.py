"""Tracebacks in the report of a failed test: they end at the test's own line, which the error follows.

Below a line such as ``pi.run("false")``, it is raised deep in this package and in the libraries that it uses. pytest's
``--full-trace`` shows all that is left out here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType

import pytest

__all__ = ["ending_at_the_test"]

#: Packages in which an error is raised of what a test asked a node for.
BELOW = frozenset({"pytest_pidoc", "fabric", "invoke", "paramiko", "decorator", "pexpect", "ptyprocess"})
#: Those around a test: a fixture of ours that fails has no line of the test.
AROUND = frozenset({"_pytest", "pytest", "pluggy", "runpy", "xdist", "execnet"})


@contextlib.contextmanager
def ending_at_the_test(excinfo: pytest.ExceptionInfo[BaseException], *, had_nodes: bool) -> Iterator[None]:
    """Let a report that is made in this block show no frames below the test's own.

    The frames of a ``KeyError`` and its like are shown, for they can tell of a mistake in this package.

    Parameters
    ----------
    excinfo
        How the test failed.
    had_nodes
        Whether the test had nodes: if so, calls of Fabric itself are cut off, too.
    """
    error, roots = excinfo.value, [_root(entry.frame.raw) for entry in excinfo.traceback]
    shown = [root for root, is_shown in zip(roots, _shown(roots), strict=True) if is_shown]
    if all(map(_is_around, shown)) or not (had_nodes or "pytest_pidoc" in roots) or not _is_of_a_node(error):
        yield
        return
    # Not by its filter(): pytest goes on from an entry to those that Python has after it.
    if (traceback := _cut(excinfo.tb)) is not None:
        excinfo.traceback = type(excinfo.traceback)(traceback)
    with contextlib.ExitStack() as stack:
        seen = {id(error)}
        while (reason := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
            if id(reason) in seen:
                break
            seen.add(id(reason))
            error = reason
            stack.callback(error.with_traceback, error.__traceback__)
            error.with_traceback(_cut(error.__traceback__))
        yield


def _is_of_a_node(error: BaseException) -> bool:
    """Tell whether that is what a call of a node raises, or what ends one: a test's time limit."""
    roots = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return bool(roots & BELOW) or isinstance(error, (OSError, EOFError, pytest.fail.Exception))


def _root(frame: FrameType) -> str:
    """Return the package that a frame's code is in."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_around(root: str) -> bool:
    return root in AROUND or root in sys.stdlib_module_names


def _shown(roots: Sequence[str]) -> list[bool]:
    """Tell of frames, by their packages, which are not below the test's; the test's own callbacks are shown."""
    shown, below = [], False
    for root in roots:
        below = root in BELOW or (below and _is_around(root))
        shown.append(not below)
    return shown


def _cut(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames that are not shown; ``None`` if none is left."""
    entries = []
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for entry, is_shown in reversed(
        list(zip(entries, _shown([_root(each.tb_frame) for each in entries]), strict=True))
    ):
        if is_shown:
            kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept
