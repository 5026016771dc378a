"""By what a function is known: a change of what it does is found, and of nothing else."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.steps.steps import Function, digests, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

MODULE = """
import functools
import json as other
from os.path import join
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {"b", "a"}
PORTS = {"client": 2379, "peer": 2380}
NAMES = ["x"]
UNRELATED = 1
LIMIT = 5

class Base:
    size = 1

class Config(Base):
    def text(self):
        return leaf()

def leaf():
    return "leaf"

def unrelated():
    return "unrelated"

@functools.lru_cache
def cached():
    return "cached"

def loop(n):
    return loop(n - 1) if n else PORTS

def decorator(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@decorator
def prepare(cluster, limit=LIMIT):
    def nested():
        return loop(3), HERE / "files"
    for node in cluster:
        node.run(join("/", *PACKAGES))
    UNRELATED = 2
    return Config().text(), cached(), nested(), other.dumps(NAMES)
"""


@pytest.fixture(autouse=True)
def _no_module_left() -> Iterator[None]:
    yield
    sys.modules.pop("steps_of_a_test", None)


counter = iter(range(10**6))


def loaded(folder: Path, text: str) -> ModuleType:
    """Import a new module with that text."""
    folder.mkdir(exist_ok=True)
    path = folder / f"steps_{next(counter)}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("steps_of_a_test", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def content(folder: Path, text: str, name: str = "prepare") -> str:
    return Function.of(vars(loaded(folder, text))[name]).content


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('return "leaf"', 'return "other leaf"'),  # called by a method of a class
        ('return "cached"', 'return "other"'),  # behind a decorator of another module
        ("loop(n - 1)", "loop(n - 2)"),  # called by a nested function, and by itself
        ("return function(*args)", "return function(*args) or 1"),  # its own decorator
        ("size = 1", "size = 2"),  # a base class
        ('{"b", "a"}', '{"b", "c"}'),
        ('"peer": 2380', '"peer": 2381'),
        ('NAMES = ["x"]', 'NAMES = ["y"]'),
        ("LIMIT = 5", "LIMIT = 6"),  # a default
        ("parent\n", 'parent / "x"\n'),
        ("import json as other", "import pickle as other"),
        ("from os.path import join", "from pathlib import Path as join"),
        ("for node in cluster", "for node in cluster[1:]"),
    ],
)
def test_change_of_what_it_uses(tmp_path: Path, before: str, after: str) -> None:
    """Functions and classes that it uses by whatever way, and the constants that they use, belong to it."""
    assert MODULE.count(before) >= 1
    assert content(tmp_path, MODULE) != content(tmp_path, MODULE.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('return "unrelated"', 'return "changed"'),
        ("UNRELATED = 1", "UNRELATED = 3"),  # a local variable of its has that name
        ("import functools\n", "import functools\nimport re\n\n# a comment\n"),  # all lines move
        ('{"client": 2379, "peer": 2380}', '{"peer": 2380, "client": 2379}'),
    ],
)
def test_unrelated_change(tmp_path: Path, before: str, after: str) -> None:
    """What it does not use does not matter, nor at which line it stands."""
    assert content(tmp_path, MODULE) == content(tmp_path, MODULE.replace(before, after, 1))


def test_it_is_the_same_elsewhere(tmp_path: Path) -> None:
    """Neither the folder nor the process matters, in which sets have another order."""
    here = content(tmp_path / "a", MODULE)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import steps_of_a_test as module\n"
        "from pytest_pidoc.steps.steps import Function; print(Function.of(module.prepare).content)"
    )
    folder = tmp_path / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "steps_of_a_test.py").write_text(MODULE)
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(folder)]
        assert subprocess.check_output(command, env=environment, text=True).strip() == here


def test_equal_steps(tmp_path: Path) -> None:
    """A function that is read twice is one step; another one is not."""
    module = loaded(tmp_path, MODULE)
    first, second = Function.of(module.prepare), Function.of(module.prepare)

    assert first == second
    assert hash(first) == hash(second)
    assert {first, second} == {first}
    assert str(first) == "prepare()"
    assert first != Function.of(loaded(tmp_path, MODULE.replace("LIMIT = 5", "LIMIT = 6")).prepare)
    assert first != "prepare()"


def test_closures(tmp_path: Path) -> None:
    """What a function closes over belongs to it, if it cannot change."""
    text = """
def make(version, *others):
    def helper(node):
        return node.run(version)
    def prepare(cluster):
        return helper(cluster), others
    return prepare
a = make("1", 2, (3, b"x"))
same = make("1", 2, (3, b"x"))
b = make("2", 2, (3, b"x"))
c = make("1", 2, (4, b"x"))
bad = make("1", [2])
"""
    module = loaded(tmp_path, text)
    contents = [Function.of(getattr(module, name)).content for name in ("a", "same", "b", "c")]

    assert contents[0] == contents[1]
    assert len(set(contents)) == 3
    with pytest.raises(SettingsError, match=r"^prepare: prepare\(\) closes over others, a tuple, which can change"):
        Function.of(module.bad)


def test_file_that_changes_after_it_was_read(tmp_path: Path) -> None:
    """What runs is what Python has read: a step whose file is another one by now is refused."""
    module = loaded(tmp_path, MODULE)
    step = Function.of(module.prepare)
    before = digests([step])
    assert not step.has_changed()
    module.NAMES.append("a run of it does that")
    assert digests([step]) == before == (step.content,)

    path = tmp_path / module.__file__
    path.write_text(MODULE.replace('"leaf"', '"a new leaf"'))
    os.utime(path, (1, 1))
    assert step.has_changed()
    with pytest.raises(SettingsError, match=r"the source of prepare\(\) has changed since Python read it") as caught:
        digests([step])
    assert caught.value.tip == "run the tests again"


def test_constants_of_other_kinds(tmp_path: Path) -> None:
    """Whatever a module has, a function that uses it is known by it as far as that can be told."""
    text = """
import dataclasses, enum, re, unittest.mock

@dataclasses.dataclass
class Port:
    number: int

class Color(enum.Enum):
    RED = 1

class Broken:
    def __getattribute__(self, name):
        raise RuntimeError("not yet")

PORT, RED, MOCK, BROKEN, PATTERN = Port(1), Color.RED, unittest.mock.call, Broken(), re.compile("x")
LOOP = []
LOOP.append(LOOP)
double = lambda x: 2 * x
PARTS = [double, Port(2)]

def prepare(cluster):
    return PORT, RED, MOCK, BROKEN, PATTERN, LOOP, double, PARTS
"""
    before = content(tmp_path, text)

    assert content(tmp_path, text) == before
    for old, new in (("Port(1)", "Port(3)"), ("Color.RED,", "Color.RED.value,"), ("2 * x", "3 * x"), ("(2)", "(4)")):
        assert content(tmp_path, text.replace(old, new)) != before


async def coroutine(cluster: object) -> None: ...


def generator(cluster: object) -> Any:
    yield


def none() -> None: ...


def two(cluster: object, other: object) -> None: ...


def needs(cluster: object, *, option: object) -> None: ...


class Callable:
    def __call__(self, cluster: object) -> None: ...

    def method(self, cluster: object) -> None: ...


exec("def executed(cluster): ...", globals())

REFUSED = {
    "lambda": (lambda cluster: None, "a lambda is not supported, since it has no source of its own."),
    "partial": (functools.partial(two, 1), "a functools.partial is not supported"),
    "method": (Callable().method, "the bound method Callable.method is not supported"),
    "object": (Callable(), "<.*> is neither a function, nor the path of a script or a playbook, nor a list of these."),
    "class": (Callable, "<class .*> is neither a function"),
    "built in": (print, "<built-in function print> is neither a function"),
    "async": (coroutine, r"the async function coroutine\(\) is not supported."),
    "generator": (generator, r"generator\(\) is a generator function, which does nothing when it is called."),
    "no argument": (none, r"none\(\) cannot be called with one argument, the cluster."),
    "two arguments": (two, r"two\(\) cannot be called with one argument, the cluster."),
    "an option": (needs, r"needs\(\) cannot be called with one argument, the cluster."),
    "no source": (globals()["executed"], r"The source of executed\(\) cannot be read: there is none"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_no_preparation(kind: str, tmp_path: Path) -> None:
    """What cannot be called with a cluster, or not be found again, is refused with a reason and what to do."""
    value, message = REFUSED[kind]
    with pytest.raises(SettingsError, match=f"^--prepare: {message}") as caught:
        read([value], places=[tmp_path], source="--prepare")

    assert "def" in caught.value.tip or "file" in caught.value.tip
