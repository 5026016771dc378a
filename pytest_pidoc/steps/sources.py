"""The digest of a function: its source, and that of the functions and classes of its module that it uses.

Constants of the module that they use belong to it, too. Of what comes from other modules only the names are in it.
Line numbers are not, nor where the file lies, nor comments and code beside what is used.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import os
import re
import symtable
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from types import CellType, FunctionType, ModuleType
from typing import Any, TypeGuard

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.steps.files import combined
from pytest_pidoc.values.checks import shown

__all__ = ["function_digests", "function_name", "require_usable"]

CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
TIP = "write a function with def at the top of a file, which takes the cluster: def prepare(cluster): ..."


def function_name(function: Callable[..., object]) -> str:
    """Return how a function is called in messages: ``etcd()``."""
    return f"{getattr(function, '__name__', type(function).__name__)}()"


def require_usable(value: object, source: str) -> TypeGuard[FunctionType]:
    """Refuse what is no function that can be called with a cluster, and found again by its source.

    Raises
    ------
    SettingsError
        It is none; the message begins with *source*.
    """
    for what in _objections(value):
        raise SettingsError(f"{source}: {what}", tip=TIP)
    return True


def _objections(value: object) -> Iterator[str]:
    """Yield why that cannot be a preparation."""
    if isinstance(value, functools.partial):
        yield "a functools.partial is not supported, since its arguments can be of any kind."
    if inspect.ismethod(value):
        yield f"the bound method {value.__qualname__} is not supported, since it depends on its object."
    if not isinstance(value, FunctionType):
        yield f"{shown(value)} is neither a function, nor the path of a script or a playbook, nor a list of these."
        return
    name = function_name(value)
    if value.__name__ == "<lambda>":
        yield "a lambda is not supported, since it has no source of its own."
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        yield f"the async function {name} is not supported."
    if inspect.isgeneratorfunction(value):
        yield f"{name} is a generator function, which does nothing when it is called."
    try:
        inspect.signature(value).bind(object())
    except (TypeError, ValueError):
        yield f"{name} cannot be called with one argument, the cluster."


def function_digests(function: FunctionType) -> tuple[str, str]:
    """Return the digest of the sources of a function and of what it uses, and that of the values that they use.

    Raises
    ------
    SettingsError
        Its source cannot be read, or it closes over a value that can change.
    """
    return _Reader(_unwrapped(function)).digests()


class _Reader:
    """Reads a function and what it uses; each part has a number, by which the others refer to it."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        self._module = str(function.__globals__.get("__name__", ""))
        file = function.__globals__.get("__file__")
        self._folder = Path(os.path.abspath(file)).parent if isinstance(file, str) else None  # noqa: PTH100
        self._numbers: dict[int, int] = {}
        self._known: list[object] = []  # what is known by its id() must not be freed meanwhile
        self._sources: list[str] = []
        self._values: list[str] = []

    def digests(self) -> tuple[str, str]:
        self._add_function(self._function)
        return combined(self._sources), combined(self._values)

    def _number(self, value: object) -> tuple[str, bool]:
        """Return the name of a part, and whether it is new."""
        is_new = id(value) not in self._numbers
        if is_new:
            self._known.append(value)
        return f"#{self._numbers.setdefault(id(value), len(self._numbers))}", is_new

    def _add_function(self, function: FunctionType) -> str:
        number, is_new = self._number(function)
        if not is_new:
            return number
        text = self._source(function)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        closed = {name: _content(cell) for name, cell in cells.items() if name != "__class__"}
        for name, value in closed.items():
            if not _is_constant(value):
                raise SettingsError(
                    f"{function_name(function)} closes over {name}, a {type(value).__name__}, which can change without"
                    " a change of its source.",
                    tip="close over numbers, texts and tuples only, or read the value in the function itself",
                )
        given = {**(function.__kwdefaults__ or {}), "": function.__defaults__ or ()}
        described = [f"default {name} = {self._describe(value)}" for name, value in sorted(given.items())]
        self._sources += [number, text]
        self._values += [number, *described, *self._references(text, {**function.__globals__, **closed})]
        return number

    def _add_class(self, kind: type) -> str:
        number, is_new = self._number(kind)
        if is_new:
            try:
                text = textwrap.dedent(inspect.getsource(kind))
            except (OSError, TypeError, SyntaxError, IndexError):  # made by a call, such as a namedtuple
                text = ""
            self._sources += [number, kind.__qualname__, text]
            self._values += [number, *self._references(text, self._function.__globals__)]
        return number

    def _source(self, function: FunctionType) -> str:
        try:
            text = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError, SyntaxError, IndexError):
            text = ""
        name = function.__code__.co_name
        if not re.search(r"\blambda\b" if name == "<lambda>" else rf"\bdef\s+{name}\b", text):
            raise SettingsError(
                f"The source of {function_name(function)} cannot be read: there is none, or its file has changed since"
                " Python read it.",
                tip="write the function into a file, and start again",
            )
        return text

    def _references(self, text: str, namespace: dict[str, Any]) -> list[str]:
        """Return what each global name in a source text is, and add what of that belongs to the function."""
        return [
            f"{name} = {self._describe(namespace[name])}"
            for name in sorted(_global_names(text))
            if name in namespace and not (name.startswith("__") and name.endswith("__"))
        ]

    def _describe(self, value: object, above: tuple[int, ...] = ()) -> str:
        """Return what a value is, in a text that is the same in each process."""
        try:
            return self._described(value, above)
        except SettingsError:
            raise
        except Exception:  # noqa: BLE001 # an object of the user's, such as a proxy of something that is not there yet
            return f"{type(value).__module__}.{type(value).__qualname__}(?)"

    def _described(self, value: object, above: tuple[int, ...]) -> str:
        if type(value) is str and Path(value).is_absolute() and (place := self._place(Path(value))) != value:
            return f"path {place}"
        if type(value) in CONSTANTS:
            return repr(value)
        if isinstance(value, PurePath):
            return f"path {self._place(value)}"
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, type):
            is_own = value.__module__ == self._module
            return self._add_class(value) if is_own else f"{value.__module__}.{value.__qualname__}"
        if isinstance(value, enum.Enum):
            return f"{self._describe(type(value))}.{value.name}"
        function = _unwrapped(value)
        if isinstance(function, FunctionType) and function.__globals__ is self._function.__globals__:
            return self._add_function(function)
        if id(value) in above:
            return "..."
        inner = functools.partial(self._describe, above=(*above, id(value)))
        kind = type(value)
        if isinstance(value, (list, tuple)):
            items = ", ".join(map(inner, value))
        elif isinstance(value, (set, frozenset)):
            items = ", ".join(sorted(map(inner, value)))
        elif isinstance(value, dict):
            items = ", ".join(sorted(f"{inner(key)}: {inner(each)}" for key, each in value.items()))
        elif dataclasses.is_dataclass(value) and kind.__module__ == self._module:
            items = ", ".join(f"{each.name}={inner(getattr(value, each.name, None))}" for each in _fields(value))
        elif isinstance(getattr(value, "__qualname__", None), str):  # a function of another module
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        else:
            items = "?"
        return f"{self._describe(kind)}({items})"

    def _place(self, path: PurePath) -> str:
        """Return a path as seen from the module's folder, if that is below it or around it."""
        folder = self._folder
        if folder is None or not path.is_absolute() or path == Path(path.anchor):
            return str(path)
        return (
            os.path.relpath(path, folder) if path.is_relative_to(folder) or folder.is_relative_to(path) else str(path)
        )


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value)


def _unwrapped(value: Any) -> Any:
    """Return the function inside of what a decorator made of it with ``functools.wraps``."""
    try:
        return inspect.unwrap(value) if callable(value) else value
    except ValueError:  # it wraps itself
        return value


def _content(cell: CellType) -> object:
    """Return what a closure's cell has, or ``None`` if it is not set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_constant(value: object) -> bool:
    """Tell whether nothing can change a value, as far as its source tells."""
    if type(value) in (tuple, frozenset):
        return all(map(_is_constant, value))  # type: ignore[call-overload]
    return type(value) in CONSTANTS or isinstance(value, (PurePath, ModuleType, FunctionType, type, enum.Enum))


def _global_names(text: str) -> set[str]:
    """Return the names in a source text that are not local, be they the module's or built in."""
    indented = text[:1].isspace()  # a text in it begins further left than its first line
    try:
        top = symtable.symtable(f"if True:\n{text}" if indented else text, "prepare", "exec")
    except SyntaxError:  # a part of a statement, such as a lambda among arguments
        return set()
    names = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    todo = top.get_children()
    while todo:
        table = todo.pop()
        todo += table.get_children()
        names |= {each.get_name() for each in table.get_symbols() if each.is_global() and each.is_referenced()}
    return names
