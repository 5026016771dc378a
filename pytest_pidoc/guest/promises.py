"""Commands that run while the test does other things: Fabric's promise of a result, whose errors name a node's end."""

from __future__ import annotations

from collections.abc import Callable

from invoke.runners import Promise, Result, Runner

__all__ = ["Promised"]


class Promised(Promise):
    """What ``run(..., asynchronous=True)`` returns; ``join()`` waits for the command and returns its result.

    Parameters
    ----------
    runner
        Runs the command.
    settle
        Calls the function that it is given, which waits, and returns the result or raises another error for its error.
    """

    def __init__(self, runner: Runner, settle: Callable[[Callable[[], Result]], Result]) -> None:
        super().__init__(runner)
        self._settle = settle

    def join(self) -> Result:
        """Wait for the end of the command, and return its result or raise the errors of ``run``."""
        return self._settle(super().join)

    def __repr__(self) -> str:  # invoke's describes the status, which is not there yet
        return f"<Promised {self.command!r}>"

    __str__ = __repr__
