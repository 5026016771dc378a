"""How much is tried: ``pytest tests/soak`` a short form, ``pytest tests/soak --soak full`` all of it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_inputs
import hypothesis
import pytest

from pytest_pidoc.host import processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", choices=("short", "full"), default="short", help="how much tests/soak tries")
    parser.addoption("--soak-restart-docker", metavar="COMMAND", help="restart the Docker daemon with it, too")


def pytest_configure(config: pytest.Config) -> None:
    times = 10 if config.getoption("--soak", "short") == "full" else 1
    for name, examples in (("soak", 16), ("soak-slow", 2)):
        hypothesis.settings.register_profile(
            name,
            deadline=None,  # bad_inputs.judged has one that a busy machine does not pass
            max_examples=examples * times,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist, which hands it to the one who reports
        session.config.workeroutput["bad_inputs"] = dict(bad_inputs.outcomes)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    bad_inputs.outcomes.update(getattr(node, "workeroutput", {}).get("bad_inputs", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if bad_inputs.outcomes:
        said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(bad_inputs.outcomes.items()))
        terminalreporter.write_line(f"bad inputs: {bad_inputs.outcomes.total()} tried, {said}")
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):  # also of a test that a worker ran
                if name == "kills" and report.when == "call":
                    terminalreporter.write_line(f"kills: {text}")


@pytest.fixture
def nothing_left(
    tmp_path: Path, clusters: Path, no_settings: Path, no_docker: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give an empty working directory without engines; at the end no process, thread or file may have come of it."""
    work, home = tmp_path / "work", tmp_path / "home"
    for folder in (work, home):
        folder.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/nowhere")
    before, threads, files = set(processes.children()), threading.active_count(), _open_files()
    yield work
    for folder in (home, work):
        assert not list(folder.rglob("*"))
    assert not [path for path in clusters.parent.rglob("*") if path != clusters]
    assert not set(processes.children()) - before
    gc.collect()
    assert threading.active_count() <= threads
    assert _open_files() <= files


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
