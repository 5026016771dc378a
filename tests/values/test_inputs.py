"""Values that somebody typed: sizes, and what stands for one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.machines import MIB
from pytest_pidoc.values.inputs import parse_size, truth


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("1K", 1024),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("512 MiB", 512 * MIB),
        ("512MB", 512 * MIB),
        (" 1G ", 1024 * MIB),
        ("2TiB", 2 * 1024**4),
        (7, 7),
    ],
)
def test_size(text: object, size: int) -> None:
    """A size is a number of bytes, or a number with a unit; units are powers of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1M", "1 G B", "1X", "1GG", "٣M", True, None, 1.0])
def test_what_is_no_size(text: object) -> None:
    """Anything else is refused, and the error shows what a size is."""
    with pytest.raises(ValueError, match="a size such as 512M"):
        parse_size(text)


@given(st.integers(0, 10**9), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "B", "iB"]))
def test_size_is_number_times_unit(number: int, unit: str, suffix: str) -> None:
    """A size is its number times its unit, in either case."""
    expected = number * 1024 ** ["", "K", "M", "G", "T"].index(unit)

    assert parse_size(f"{number}{unit}{suffix}") == expected
    assert parse_size(f"{number}{unit}{suffix}".lower()) == expected


@pytest.mark.parametrize("value", [None, 0, 1, "True", "yes"])
def test_only_true_and_false_are_true_and_false(value: object) -> None:
    """What code says with a keyword is not guessed from another value."""
    assert truth(True) is True
    assert truth(False) is False
    with pytest.raises(ValueError, match="True or False"):
        truth(value)
