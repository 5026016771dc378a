"""The commands about the host: ``demo``, ``doctor``, ``models``."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from pytest_pidoc.commands.output import print_json, terminal_progress
from pytest_pidoc.machines import MIB
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.text import table

__all__ = ["demo", "doctor", "models"]


def demo(options: argparse.Namespace, settings: Settings) -> int:
    """Run the demonstration."""
    from pytest_pidoc.commands.demo import run

    return 1 if run(settings, terminal_progress()) else 0


def doctor(options: argparse.Namespace, settings: Settings) -> int:
    """Print what the host has and lacks; return 1 if no engine is available, or with ``--verify`` a file is damaged."""
    from pytest_pidoc.commands.doctor import examine, verify

    checks = examine(settings)
    damaged = verify(settings, terminal_progress()) if options.verify else []
    checks += damaged
    if options.json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            word = "ok" if check.ok else "damaged" if check in damaged else "missing"
            print(f"{word:<7}  {check.name:<16} {check.found}")
            if check.remedy:
                print(f"{'':26}try: {check.remedy}")
    usable = any(check.ok for check in checks if check.name.startswith("engine"))
    return 0 if usable and all(check.ok for check in damaged) else 1


def models(options: argparse.Namespace, settings: Settings) -> int:
    """List the models, and whether the host's QEMU supports them."""
    from pytest_pidoc.engines.availability import availabilities
    from pytest_pidoc.engines.local import LocalEngine

    found: list[dict[str, Any]] = [
        {
            "model": each.machine.name,
            "machine": each.machine.machine,
            "cpu": each.machine.cpu,
            "cores": each.machine.cores,
            "memory": each.machine.memory,
            "architecture": each.machine.architecture,
            "summary": each.machine.summary,
            "least_qemu": ".".join(map(str, each.machine.least_qemu)),
            "ok": each.ok,
            "here": str(each),
        }
        for each in availabilities(LocalEngine())
    ]
    if options.json:
        print_json(found)
    else:
        rows = [
            (
                *(each[name] for name in ("model", "machine", "cpu", "cores")),
                f"{each['memory'] // MIB}M",
                *(each[name] for name in ("architecture", "here", "summary")),
            )
            for each in found
        ]
        print(table(("model", "machine", "cpu", "cores", "memory", "guest", "available", "what it is for"), rows))
    return 0
