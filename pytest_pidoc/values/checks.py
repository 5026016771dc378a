"""Checks of values that a user gave, and how an error shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

__all__ = ["MOST_SECONDS", "is_number", "is_seconds", "is_whole", "listed", "shown"]

MOST_SECONDS = 86400.0  # a day: a longer wait is a wrong unit, and the OS rejects 1e10
SHOWN = 500  # characters: enough for a path


def shown(value: object) -> str:
    """Return a value as Python writes it, shortened if it is long; its type if ``repr`` fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 # an integer of 5,000 digits, a list of 5,000 levels, a class of the user's own
        return f"a value of the type {type(value).__name__}, which cannot be shown,"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def listed(names: Iterable[str]) -> str:
    """Return names for an error, sorted, and no more than a user would read."""
    text = ", ".join(sorted(names))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def is_number(value: object, least: float, most: float) -> TypeGuard[float]:
    """Tell whether that is a number from *least* to *most*; ``True`` and NaN are not."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= float(value) <= most
    except OverflowError:  # an integer that is larger than any float
        return False


def is_whole(value: object, least: int, most: int) -> TypeGuard[int]:
    """Tell whether that is a whole number from *least* to *most*; ``True`` is not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_seconds(value: object) -> TypeGuard[float]:
    """Tell whether that is a valid timeout in seconds: above 0, and at most a day."""
    return is_number(value, 0, MOST_SECONDS) and value > 0
