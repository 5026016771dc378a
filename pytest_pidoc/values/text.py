"""Plain text for terminals: tables, and readable times and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["duration", "size", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return columns as wide as their widest cell, two spaces apart; *head* is the first row."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Return a time in its largest unit: ``45 s``, ``12 min``, ``5 h``, ``3 days``."""
    for unit, length, from_ in (("days", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 120)):
        if seconds >= from_:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def size(number: float) -> str:
    """Return a number of bytes: ``12 MB``, ``1.2 GB``."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
