"""Error messages, picked at random from the source, for somebody to read: ``python -m tests.messages --seed 7``."""

from __future__ import annotations

import argparse
import ast
import random
from collections.abc import Iterator
from pathlib import Path

from pytest_pidoc import errors
from tests.imports import ROOT, modules

__all__ = ["Message", "messages", "picked"]


class Message:
    """The message of one ``raise`` in the source: what it says, and its tip, with ``{...}`` for values."""

    def __init__(self, path: Path, call: ast.Call) -> None:
        self.place = f"{path.relative_to(ROOT)}:{call.lineno}"
        self.error = ast.unparse(call.func)
        self.what = _text(call.args[0]) if call.args else ""
        self.tip = next((_text(keyword.value) for keyword in call.keywords if keyword.arg == "tip"), "")

    def __str__(self) -> str:
        tip = f"\n    Try: {self.tip}" if self.tip else ""
        return f"{self.place} {self.error}\n    {self.what}{tip}"


def messages() -> Iterator[Message]:
    """Yield the messages of all errors of the package that its source raises with a text of their own."""
    known = set(errors.__all__)
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                message = Message(path, node.exc)
                if message.error in known and len(message.what.replace("{...}", "").split()) > 2:
                    yield message


def picked(seed: int, count: int) -> list[Message]:
    """Return *count* of them, always the same for a seed as long as the source is the same."""
    return random.Random(seed).sample(sorted(messages(), key=lambda message: message.place), count)


def _text(node: ast.expr) -> str:
    """Return a string of the source, with ``{...}`` for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{...}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "{...}"


def _print() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    print("\n\n".join(map(str, picked(options.seed, options.count))))


if __name__ == "__main__":
    _print()
