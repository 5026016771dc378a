"""Directives that write the reference from the code, so that it cannot go stale.

``pidoc-options``, ``pidoc-benchmark-options``, ``pidoc-marker``, ``pidoc-arguments``, ``pidoc-boot-pi``,
``pidoc-models``, ``pidoc-published``, ``pidoc-commands``; none takes an argument.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pytest_pidoc.commands.arguments import subcommands
from pytest_pidoc.commands.parser import make_parser
from pytest_pidoc.images.stock.recipe import PUBLISHED
from pytest_pidoc.machines import MIB, MODELS
from pytest_pidoc.pi_benchmark import options as benchmarks
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.settings.table import DEFAULT_MODEL, MARKER, MARKER_SIGNATURE, OPTIONS, signature
from pytest_pidoc.values.options import Option

MEASUREMENTS = Path(__file__).parents[1] / "explanation" / "measurements.md"
HELP_WIDTH = 96  # columns


def options_table(options: Iterable[Option], defaults: Mapping[str, object]) -> str:
    """Return a Markdown table of some settings."""
    rows = [
        (
            f"`{option.option}`" + (f" `{option.metavar}`" if option.metavar else ""),
            f"`{option.ini}`",
            f"`{option.variable}`",
            _default(option.name, defaults[option.name]),
            _meaning(option),
        )
        for option in options
    ]
    return _table(("option", "ini key", "environment", "default", "meaning"), rows)


def arguments_table() -> str:
    """Return a Markdown table of what the marker takes."""
    return _table(("argument", "meaning"), [(f"`{option.name}`", _meaning(option)) for option in MARKER])


def network_rates() -> dict[tuple[str, str], str]:
    """Return the rates in MB/s at which nodes received (``in``) and sent (``out``), from the page of measurements."""
    row = re.compile(r"^(\S+) +network (in|out) +\S+ +\S+ \(.*?\) +(\S+) \(", re.MULTILINE)
    return {(model, way): rate for model, way, rate in row.findall(MEASUREMENTS.read_text(encoding="utf-8"))}


def models_table() -> str:
    """Return a Markdown table of all models."""
    rates = network_rates()
    rows = [
        (
            f"`{row.name}`" + (" (default)" if row.name == DEFAULT_MODEL else ""),
            f"`{row.machine}`",
            f"`{row.cpu}`",
            row.cores,
            f"{row.memory // MIB} MiB",
            row.architecture,
            f"`{row.console}`",
            f"{rates[row.name, 'in']}, {rates[row.name, 'out']}",
            ".".join(map(str, row.least_qemu)),
            row.summary,
        )
        for row in MODELS.values()
    ]
    head = ("model", "QEMU machine", "CPU", "cores", "memory", "guest", "serial port", "network", "QEMU")
    return _table((*head, "what it is for"), rows)


class OptionsDirective(SphinxDirective):
    """The table of settings."""

    def run(self) -> list[nodes.Node]:
        defaults = {option.name: getattr(Settings(), option.name) for option in OPTIONS}
        return self.parse_text_to_nodes(options_table(OPTIONS, defaults))


class BenchmarkOptionsDirective(SphinxDirective):
    """The table of the settings of benchmarks."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(options_table(benchmarks.OPTIONS, benchmarks.DEFAULTS))


class ModelsDirective(SphinxDirective):
    """The table of models."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(models_table())


class PublishedDirective(SphinxDirective):
    """The table of published images."""

    def run(self) -> list[nodes.Node]:
        rows = [(f"`raspios:{name}`", f"`{file.place}`", f"`{file.sha256}`") for name, file in PUBLISHED.items()]
        return self.parse_text_to_nodes(_table(("name", "URL", "SHA-256"), rows))


class MarkerDirective(SphinxDirective):
    """The marker's signature."""

    def run(self) -> list[nodes.Node]:
        return [_literal(f"@pytest.mark.{MARKER_SIGNATURE}", "python")]


class ArgumentsDirective(SphinxDirective):
    """The table of the marker's arguments."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(arguments_table())


class BootPiDirective(SphinxDirective):
    """How boot_pi is called."""

    def run(self) -> list[nodes.Node]:
        return [_literal(signature("boot_pi"), "python")]


class CommandsDirective(SphinxDirective):
    """A section per command, with its help text."""

    def run(self) -> list[nodes.Node]:
        parser = make_parser()
        return [_help(parser), *self._sections(parser)]

    def _sections(self, parser: argparse.ArgumentParser) -> list[nodes.section]:
        found = []
        for command in subcommands(parser).values():
            section = nodes.section(ids=[nodes.make_id(command.prog)], names=[command.prog])
            section += nodes.title(text=command.prog)
            section += _help(command)
            section += self._sections(command)
            self.state.document.note_implicit_target(section, section)
            found.append(section)
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("pidoc-options", OptionsDirective)
    app.add_directive("pidoc-benchmark-options", BenchmarkOptionsDirective)
    app.add_directive("pidoc-models", ModelsDirective)
    app.add_directive("pidoc-published", PublishedDirective)
    app.add_directive("pidoc-marker", MarkerDirective)
    app.add_directive("pidoc-arguments", ArgumentsDirective)
    app.add_directive("pidoc-boot-pi", BootPiDirective)
    app.add_directive("pidoc-commands", CommandsDirective)
    app.connect("env-before-read-docs", _read_again)
    return {"parallel_read_safe": True}


def _read_again(app: Sphinx, env: object, names: list[str]) -> None:
    """Read the pages that are written from code each time: Sphinx does not see when the code has changed."""
    for name in (
        "reference/options",
        "reference/models",
        "reference/images",
        "reference/command-line",
        "reference/marker",
        "reference/fixtures",
    ):
        if name not in names and name in app.project.docnames:
            names.append(name)


def _default(name: str, value: object) -> str:
    if name == "cache_dir":
        return "`~/.cache/pytest-pidoc`"
    if value in (None, "", ()):
        return ""
    return f"`{value}`" if not isinstance(value, bool) else "on" if value else "off"


def _meaning(option: Option) -> str:
    return option.help + (f"; see [](../{option.page}.md)" if option.page else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def _help(parser: argparse.ArgumentParser) -> nodes.literal_block:
    saved = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=str(HELP_WIDTH + 2), NO_COLOR="1")  # argparse leaves two columns free
    try:
        return _literal(parser.format_help(), "text")
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _literal(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)
