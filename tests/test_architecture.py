"""The package is built as docs/explanation/architecture.md says: in layers, without a circle."""

from __future__ import annotations

import ast

import pytest

from pytest_pidoc.node import Node
from tests import imports

FOUND = imports.imports()

needs_docs = pytest.mark.skipif(not imports.PAGE.exists(), reason="the documentation is not here")


def test_no_modules_import_each_other() -> None:
    """By whatever way round, and for type checkers only, too."""
    assert imports.circles(FOUND) == []


@needs_docs
def test_imports_lead_down() -> None:
    """From a room to a lower layer, or to a module of the same room."""
    assert [f"{each.importer}:{each.line} imports {each.imported}" for each in imports.upward(FOUND)] == []


@needs_docs
def test_every_module_is_in_a_room_and_every_room_has_modules() -> None:
    """So that the table of the layers tells of all that there is, and of nothing else."""
    rooms = {room for row in imports.layers() for room in row}
    known = set(imports.modules()) - {"pytest_pidoc", "pytest_pidoc.images"}  # which import nothing of their own

    assert [module for module in known if imports.room_of(module, rooms) is None] == []
    assert [room for room in rooms if not any(f"{module}.".startswith(f"{room}.") for module in known)] == []


def test_names_are_imported_that_a_module_offers() -> None:
    """What is not in ``__all__`` is a module's own affair."""
    assert [f"{each.importer}:{each.line} {each.imported}.{each.name}" for each in imports.past_all(FOUND)] == []


def test_the_house_is_small_enough_to_find_ones_way() -> None:
    """Few modules lie beside the folders, and none tells a long story."""
    assert len(list(imports.PACKAGE.glob("*.py"))) <= 9
    lines, name = imports.largest()
    assert lines < 450, name


def test_a_node_holds_what_a_test_uses() -> None:
    """At most 47 public members; what drives the machine is not among them."""
    made_in_init = {
        node.attr
        for node in ast.walk(ast.parse((imports.PACKAGE / "node.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    public = {name for name in {*vars(Node), *made_in_init} if not name.startswith("_")}

    assert len(public) <= 47
    assert not public & {"launch", "endpoint", "bringup", "stop", "shell", "qmp", "relaunch", "death"}


@needs_docs
def test_the_reference_hides_nothing() -> None:
    """A member that must be left out of the page of the Python API should not be public."""
    page = imports.PAGE.parents[1] / "reference" / "python-api.md"

    assert "exclude-members" not in page.read_text(encoding="utf-8")


def test_a_circle_and_an_upward_import_are_found() -> None:
    """The checks above see what they look for, in imports that are made up."""
    up = imports.Import("pytest_pidoc.errors", "pytest_pidoc.node", "Node", 1)
    down = imports.Import("pytest_pidoc.node", "pytest_pidoc.errors", "PidocError", 1)
    past = imports.Import("pytest_pidoc.node", "pytest_pidoc.errors", "Unknown", 1)

    assert imports.circles([up, down]) == [["pytest_pidoc.errors", "pytest_pidoc.node"]]
    if imports.PAGE.exists():
        assert imports.upward([up, down]) == [up]
    assert imports.past_all([down, past]) == [past]


def test_imports_for_type_checkers_and_in_functions_count() -> None:
    """An import is one wherever it stands."""
    importers = {each.imported for each in FOUND if each.importer == "pytest_pidoc.vm.power"}

    assert "pytest_pidoc.vm.bringup" in importers  # below TYPE_CHECKING
    assert any(
        each.importer == "pytest_pidoc.lifecycle.reaper" and each.imported == "pytest_pidoc.containers.reaper"
        for each in FOUND
    )  # in a function
