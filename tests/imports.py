"""The package's imports, read from its source: ``python -m tests.imports`` prints how it is built.

The layers are those of the table in docs/explanation/architecture.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PACKAGE",
    "PAGE",
    "Import",
    "circles",
    "imports",
    "largest",
    "layers",
    "modules",
    "past_all",
    "room_of",
    "upward",
]

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pytest_pidoc"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"


@dataclass(frozen=True)
class Import:
    """One import of a module of the package by another, wherever in the source it stands.

    Attributes
    ----------
    importer, imported
        Names of modules.
    name
        What is imported of it; empty for the module itself.
    line
        Where.
    """

    importer: str
    imported: str
    name: str
    line: int


def modules() -> dict[str, Path]:
    """Return the file of each module, by the module's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> list[Import]:
    """Return all imports inside the package, those of type checkers and in functions included."""
    known = modules()
    return [each for name, path in known.items() for each in _imports_of(name, path, known)]


def _imports_of(importer: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield Import(importer, alias.name, "", node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                name = "" if module in known else alias.name
                yield Import(importer, module if module in known else str(node.module), name, node.lineno)


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the topmost first, from the table of the architecture page.

    A room is a folder (``images/store/``), a module of a folder or one beside the folders (``machines.py``).
    """
    rows = re.findall(r"^\| \d+ \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [[_module_of(room) for room in re.findall(r"`([^`]+)`", row)] for row in rows]


def _module_of(room: str) -> str:
    return "pytest_pidoc." + room.removesuffix(".py").rstrip("/").replace("/", ".")


def room_of(module: str, rooms: set[str]) -> str | None:
    """Return the room of a module, the smallest if it is in several; ``None`` if it is in none."""
    found = [room for room in rooms if module == room or module.startswith(f"{room}.")]
    return max(found, key=len, default=None)


def upward(found: list[Import]) -> list[Import]:
    """Return the imports between rooms that do not lead to a lower layer."""
    floor = {room: number for number, row in enumerate(layers()) for room in row}
    rooms = set(floor)
    wrong = []
    for each in found:
        here, there = room_of(each.importer, rooms), room_of(each.imported, rooms)
        if here is not None and here != there and (there is None or floor[there] <= floor[here]):
            wrong.append(each)
    return wrong


def circles(found: list[Import]) -> list[list[str]]:
    """Return the groups of modules that import each other, by whatever way round."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for each in found:
        graph[each.importer].add(each.imported)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in graph[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph}
    return [list(group) for group in sorted(groups) if group]


def past_all(found: list[Import]) -> list[Import]:
    """Return the imports of names that a module does not offer in its ``__all__``."""
    known = modules()
    offered = {name: _offered(path) for name, path in known.items()}
    return [each for each in found if each.name and each.name not in offered[each.imported]]


def _offered(path: Path) -> set[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def largest() -> tuple[int, str]:
    """Return the lines of the largest module, and its name."""
    return max((len(path.read_text(encoding="utf-8").splitlines()), name) for name, path in modules().items())


def _print() -> None:
    found = imports()
    between = {(each.importer, each.imported) for each in found}
    lines, name = largest()
    print(f"{len(modules())} modules, {len(between)} imports between them")
    print(f"{len(circles(found))} circles, {len(upward(found))} upward imports, {len(past_all(found))} past __all__")
    print(f"{len(list(PACKAGE.glob('*.py')))} modules beside the folders, {len(layers())} layers")
    print(f"largest module: {name}, {lines} lines")


if __name__ == "__main__":
    _print()
