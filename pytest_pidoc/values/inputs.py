"""Values that somebody typed: parse them, or say in a ``ValueError`` what would be right: "a size such as 512M"."""

from __future__ import annotations

import math
import re
import stat
from pathlib import Path

__all__ = ["directory", "flag", "line", "one_of", "parse_size", "real", "truth", "whole"]

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(value: object) -> int:
    """Return a size in bytes from a number of bytes or a text such as ``512M`` or ``1G`` (powers of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = re.fullmatch(r"(\d{1,12})\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError("a size such as 512M or 1G")
    return int(found[1]) * UNITS[found[2].upper()]


def one_of(value: object, choices: tuple[str, ...]) -> str:
    """Return *value* if it is one of the *choices*."""
    if value not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    return str(value)


def line(value: object, wanted: str, *, least: int = 1) -> str:
    """Return a text of one printable line, with at least so many characters, without the spaces around it."""
    if not isinstance(value, str) or len(value.strip()) < least or not value.isprintable():
        raise ValueError(wanted)
    return value.strip()


def whole(value: object, least: int, most: int, wanted: str) -> int:
    """Return a whole number from *least* to *most*, given as such or as a text."""
    if not (
        isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,20}\s*", value, re.ASCII))
    ):
        raise ValueError(wanted)
    if isinstance(value, bool) or not least <= int(value) <= most:
        raise ValueError(wanted)
    return int(value)


def real(value: object, least: float, most: float, wanted: str) -> float:
    """Return a number from *least* to *most*, given as such or as a text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most:  # false for NaN, too
        raise ValueError(wanted)
    return number


def directory(value: object) -> Path:
    """Return the absolute path of a directory, which need not exist yet; ``~`` is the home directory."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("a directory")
    try:
        path = Path(value).expanduser().absolute()
        found = path.stat()
    except FileNotFoundError:
        return path  # it is made when it is needed
    except (OSError, RuntimeError, UnicodeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path cannot be resolved"
        raise ValueError(f"a directory that can be used: {reason}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError("a directory: it is a file")
    return path


def flag(value: object) -> bool:
    """Return ``True`` or ``False``, given as such or as a text such as ``yes`` or ``off``."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("yes or no")


def truth(value: object) -> bool:
    """Return ``True`` or ``False``, which nothing else stands for: code says it, and no text."""
    if isinstance(value, bool):
        return value
    raise ValueError("True or False")
