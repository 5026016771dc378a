"""Warm starts one after the other on each engine: nothing fails, nothing is left; and what does is found."""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support import PIDOC, vm_of

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.values.progress import Progress
from tests.performance.soak import Traces, soak


class Saboteur(Progress):
    """Leaves a process behind before the second start, and takes QEMU away for that one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.processes: list[subprocess.Popen[bytes]] = []

    def step(self, text: str) -> None:
        if text.startswith("start 2 of 3"):
            self.processes.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
            self.monkeypatch.setenv("PATH", "/nowhere")
        elif text.startswith("start 3 of 3"):
            self.monkeypatch.undo()


def test_starts_leave_nothing(engine: str, settings: Settings, image: Image) -> None:
    """A handful of starts: each of them is warm, none fails, nothing is left behind."""
    report = soak(replace(settings, engine=engine), runs=4, progress=Progress())

    assert report.ok, str(report)
    assert report.engine == engine
    assert len(report.ready) == report.starts == 4


@pytest.mark.docker
def test_a_container_that_somebody_else_made_is_none_of_ours(settings: Settings, image: Image, tmp_path: Path) -> None:
    """Also one whose cluster cannot be seen from here, as its user has another directory for such files."""
    before = Traces.now()
    pidoc = functools.partial(subprocess.run, check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    pidoc([*PIDOC, "up", "--engine", "docker", "--cache-dir", str(settings.cache_dir)])
    try:
        with Cluster.up(nodes=1, engine="docker", settings=settings) as cluster:
            assert Traces.now().since(before)["containers"] == [vm_of(cluster[0]).endpoint.handle]
    finally:
        pidoc([*PIDOC, "down"])
    assert Traces.now().since(before)["containers"] == []


@pytest.mark.qemu
def test_what_fails_and_what_is_left_is_found(
    settings: Settings, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails is named and the next one is made; a process that stays is named, too."""
    saboteur = Saboteur(monkeypatch)

    report = soak(replace(settings, engine="local"), runs=3, progress=saboteur)

    (left_over,) = saboteur.processes
    left_over.communicate()  # closes its input, so it ends
    assert not report.ok
    assert len(report.ready) == 2
    (failure,) = report.failures
    assert failure.start == 2
    assert failure.message.startswith("EngineUnavailable: The engine local requires QEMU")
    (left,) = report.left["processes"]
    assert left.startswith(f"{left_over.pid} ")
