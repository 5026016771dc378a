"""Bad inputs: values of any kind, values that are almost good, files that are damaged, and how each is to be taken."""

from __future__ import annotations

import collections
import contextlib
import copy
import decimal
import fractions
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pytest_pidoc.errors import PidocError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    *("almost", "anything", "apply", "damaged", "json_mutated", "json_values", "judged", "mutated", "outcomes"),
    *("plain_text", "remove", "text", "write"),
]

PATIENCE = 20.0  # seconds for one input, on a busy machine; a millisecond on an idle one
LONGEST = 4000  # characters of an error

#: How many inputs were accepted, and how many refused.
outcomes: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def judged(*kinds: type[BaseException]) -> Iterator[None]:
    """Let the block accept its input, or refuse it in time with an error of ours that says what is wrong.

    *kinds* are other errors that mean a refusal: pytest's, argparse's.
    """

    def hang(number: int, frame: object) -> None:
        raise AssertionError(f"it has not ended within {PATIENCE:g} s")

    former = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
        outcomes["accepted"] += 1
    except PidocError as error:
        outcomes["refused"] += 1
        require_clear(str(error))
    except kinds:
        outcomes["refused"] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def require_clear(message: str) -> None:
    """Let a message have some words of its own, and no end that nobody would read to."""
    words = re.findall(r"[A-Za-z]{2,}", message)
    assert len(words) >= 4, message
    assert len(message) <= LONGEST, f"{len(message)} characters: {message[:200]}"
    assert "Traceback" not in message, message


class Hostile:
    """What raises whatever is asked of it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("nothing may be asked of this")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __float__ = __int__ = __fspath__ = _refuse
    __iter__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("Hostile()")  # for hypothesis, to show where it was given


class PathOfBytes:
    """A path whose text is bytes, which few expect."""

    def __fspath__(self) -> bytes:
        return b"somewhere"


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _own() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


#: Text of any characters: surrogates, NUL, controls, right to left.
text = st.text(st.characters(categories=None), max_size=30) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "a\0b",
        "\n",
        "\ud800",
        "\udcff",
        "none",
        "None",
        "nan",
        "inf",
        "1e400",
        "0x10",
        "٣",
        "-0",
        "x" * 9000,
    ]
)
#: The same without what could name a place outside of the directory of a test.
plain_text = text.map(lambda value: re.sub(r"[/~.]", "_", value))

#: Made where they are drawn: hypothesis shows what it draws from, and some of these cannot be shown.
_odd = st.sampled_from(
    [
        lambda: 10**400,
        lambda: -(10**400),
        lambda: 10**5000,
        lambda: b"",
        lambda: b"pi3-virt",
        lambda: b"\xff\0",
        lambda: bytearray(b"1"),
        lambda: 1j,
        lambda: decimal.Decimal("0.5"),
        lambda: decimal.Decimal("sNaN"),
        lambda: fractions.Fraction(1, 3),
        lambda: fractions.Fraction(10**400),
        lambda: Path("somewhere"),
        PathOfBytes,
        Hostile,
        lambda: Hostile,
        object,
        lambda: print,
        lambda: range(10**9),
        lambda: ...,
        lambda: NotImplemented,
        lambda: frozenset({1}),
        _own,
        lambda: _nested(500),
        lambda: _nested(5000),
        lambda: {"nodes": 3},
        lambda: "x" * 10**6,
        lambda: list(range(10**5)),
    ]
).map(lambda make: make())
_numbers = (
    st.integers() | st.floats() | st.sampled_from([0, -1, 1, 2**31, 2**63, math.nan, math.inf, -math.inf, 5e-324])
)
#: Values of any type, in any nesting; every other one is odd, for there are many of those.
anything = _odd | st.recursive(
    st.none() | st.booleans() | _numbers | text | st.binary(max_size=20) | _odd,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.builds(iter, st.lists(inner, max_size=2))
    ),
    max_leaves=5,
)


@st.composite
def almost(draw: st.DrawFn, *good: str) -> str:
    """Give a good text with a character or two that are not: left out, doubled, put in, or in the other case."""
    value = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        value = draw(
            st.sampled_from(
                [
                    value[:at] + value[at + 1 :],
                    value[:at] + value[at : at + 1] + value[at:],
                    value[:at] + draw(st.text(max_size=2)) + value[at:],
                    value.swapcase(),
                    f" {value}",
                    value + value,
                    f"-{value}",
                ]
            )
        )
    return value


@st.composite
def mutated(draw: st.DrawFn, good: bytes, *, hot: tuple[int, ...] = ()) -> bytes:
    """Give real bytes with some of them changed: near the places *hot*, or anywhere; cut off, or with more behind."""
    data = bytearray(good)
    places = st.integers(0, max(0, len(good) - 1))
    if hot:
        places = (
            st.builds(lambda at, by: min(len(good) - 1, at + by), st.sampled_from(hot), st.integers(0, 24)) | places
        )
    for _ in range(draw(st.integers(0, 6))):
        at = draw(places)
        noise = draw(
            st.binary(min_size=1, max_size=8)
            | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
        )
        data[at : at + len(noise)] = noise
    if draw(st.integers(0, 5)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    if draw(st.integers(0, 9)) == 0:
        data += draw(st.binary(max_size=64))
    return bytes(data)


#: What JSON can say.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -1, 0, "", "../..", "/", "/nowhere", "\ud800", "a\0b", "-oX=y", "x" * 9000])
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def json_mutated(draw: st.DrawFn, good: Any) -> Any:
    """Give a JSON value of which a part is another: left out, of another type, or nested otherwise."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        parent, key, part = None, None, value
        while isinstance(part, (dict, list)) and part and (parent is None or draw(st.integers(0, 3))):
            keys = sorted(part) if isinstance(part, dict) else list(range(len(part)))
            parent, key = part, draw(st.sampled_from(keys))
            part = part[key]
        if parent is None:
            return draw(json_values)
        act = draw(st.sampled_from(["replace", "replace", "replace", "remove", "wrap", "add"]))
        if act == "replace":
            parent[key] = draw(json_values)
        elif act == "remove":
            del parent[key]
        elif act == "wrap":
            parent[key] = [part]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=6))] = draw(json_values)
        else:
            parent.append(draw(json_values))
    return value


def remove(path: Path) -> None:
    """Remove whatever is at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file anew: ext4 waits for the disk where one is truncated."""
    remove(path)
    path.write_bytes(content)


def _becomes_directory(path: Path) -> None:
    remove(path)
    path.mkdir()
    (path / "something").write_text("")


def _becomes_file(path: Path) -> None:
    write(path, b"a file\n")


def _becomes_link(target: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        remove(path)
        path.symlink_to(target)

    return damage


def _becomes_fifo(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def _content(content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        write(path, content)

    return damage


def _truncated(size: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        if path.is_file():
            path.chmod(0o600)
            os.truncate(path, min(size, path.stat().st_size))

    return damage


def _mode(mode: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        if path.exists():
            path.chmod(mode)

    return damage


DEEP = b"[" * 100_000
#: Ways to damage a file or directory at a path.
damages = st.one_of(
    st.sampled_from(
        [
            remove,
            _becomes_directory,
            _becomes_file,
            _becomes_fifo,
            _becomes_link("nowhere"),
            _becomes_link("."),
            _becomes_link("/dev/zero"),
            _becomes_link("/dev/full"),
            _becomes_link("manifest.json"),
            _content(DEEP),
            _content(b'{"a":' * 100_000),
            _content(b"\xff\xfe\0\1"),
            _content(b"null"),
            _content(b"9" * 5000),
            _mode(0),
            _mode(0o777),
        ]
    ),
    st.integers(0, 400).map(_truncated),
    st.binary(max_size=60).map(_content),
    json_values.map(lambda value: _content(json.dumps(value).encode())),
)


def damaged(names: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Give what becomes of some files of a directory: pairs of a name and what is done to it."""
    return st.lists(st.tuples(names, damages), min_size=1, max_size=3)


def apply(directory: Path, what: list[tuple[str, Any]]) -> None:
    """Damage files of a directory; what another damage has taken away cannot be damaged again."""
    for name, damage in sorted(what, key=lambda pair: (pair[0] == ".", -pair[0].count("/"))):  # inner ones first
        with contextlib.suppress(OSError):
            damage(directory / name)
