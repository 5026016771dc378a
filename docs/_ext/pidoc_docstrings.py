"""Docstrings as they are written here, where napoleon and autodoc want something else.

- The text of a property may hold a colon: napoleon would take what is before it for a type.
- A class may describe two attributes at once: ``host, port``.
- A docstring names a class of the package without its module.
- Users do not make objects of most classes themselves, so how that is done is left out.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import NumpyDocstring
from sphinx.util.nodes import make_refnode

_TWO_NAMES = re.compile(r"\w+(, \w+)+")
_originals: dict[str, list[str]] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Stand around napoleon, whose own priority is 500."""
    app.connect("autodoc-process-docstring", _before, priority=100)
    app.connect("autodoc-process-docstring", _after, priority=900)
    app.connect("autodoc-process-signature", _without_constructor)
    app.connect("missing-reference", _find)
    return {"parallel_read_safe": True}


def _before(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    if what == "class":
        lines[:] = _split(lines)
    _originals[name] = list(lines)


def _after(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    original = _originals.pop(name, None)
    if what in ("attribute", "property") and original is not None:
        lines[:] = NumpyDocstring(original, app.config, app, "method", name, obj, options).lines()


def _without_constructor(
    app: Sphinx, what: str, name: str, obj: object, options: Any, arguments: str, returned: str
) -> tuple[str, str] | None:
    return ("", "") if what == "class" else None


def _split(lines: list[str]) -> list[str]:
    """Repeat the description of ``a, b`` for each of them."""
    found: list[str] = []
    for number, line in enumerate(lines):
        if not _TWO_NAMES.fullmatch(line):
            found.append(line)
            continue
        *names, _ = line.split(", ")
        end = next((n for n in range(number + 1, len(lines)) if not lines[n].startswith(" ")), len(lines))
        for name in names:
            found += [name, *lines[number + 1 : end]]
        found.append(line.rpartition(", ")[2])
    return found


def _find(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.reference | None:
    """Resolve a name of this package that is written without its module, if only one object has it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    objects = env.domains.python_domain.objects
    matches = [name for name in objects if name.endswith(f".{target.removeprefix('pytest_pidoc.')}")]
    if len(matches) != 1:
        return None
    (match,) = matches
    entry = objects[match]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, match)
