"""Plain text tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.values.text import duration, size, table


def test_columns_line_up() -> None:
    """Each column is as wide as its widest cell, two spaces from the next."""
    assert table(("node", "port"), [("pi-1", 40001), ("a-long-name", 1)]).splitlines() == [
        "node         port",
        "pi-1         40001",
        "a-long-name  1",
    ]


def test_no_rows_is_the_head() -> None:
    """A table without rows still says what its columns are."""
    assert table(("node", "port"), []) == "node  port"


def test_ragged_rows_are_refused() -> None:
    """A row that lacks a cell is a mistake of the caller."""
    with pytest.raises(ValueError, match="zip"):
        table(("node", "port"), [("pi-1",)])


@given(st.lists(st.tuples(*[st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)] * 3)))
def test_every_cell_starts_in_its_column(rows: list[tuple[str, str, str]]) -> None:
    """Whatever the cells, those of a column start at the same place, and no line ends in a space."""
    lines = table(("a", "b", "c"), rows).splitlines()
    second = lines[0].index("b")

    assert len(lines) == len(rows) + 1
    assert all(line[second:].startswith(row[1]) for line, row in zip(lines[1:], rows, strict=True))
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.9, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172800, "2 days"), (-5, "0 s")],
)
def test_duration(seconds: float, text: str) -> None:
    """A time is said in its largest unit."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 MB"), (12_400_000, "12 MB"), (1_240_000_000, "1.2 GB")])
def test_size(number: float, text: str) -> None:
    """A size has a unit."""
    assert size(number) == text
