"""The same for several things at once, in a thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["side_by_side"]

T = TypeVar("T")


def side_by_side(do: Callable[[T], object], things: Iterable[T]) -> None:
    """Do something with all *things* at once, and return when all is done; then the error of the first is raised."""
    items = tuple(things)
    with ThreadPoolExecutor(max_workers=max(1, len(items))) as pool:
        for _ in pool.map(do, items):
            pass
