"""Which models the QEMU that is here can be, by its version."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_pidoc import cli
from pytest_pidoc.engines.availability import Availability, availabilities, require
from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.lifecycle.provision import provision
from pytest_pidoc.machines import MODELS
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress

OLD = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory that is all of PATH, with a QEMU for 64 bits that says it is old, and none for 32 bits."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, said in (("qemu-system-aarch64", OLD), ("qemu-img", "")):
        (folder / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.parametrize(
    ("text", "ok", "said"),
    [
        ("version 8.2.9", False, "requires QEMU 9.0 or newer (installed: 8.2.9)"),
        ("version 9.0.0", True, "yes"),
        ("version 10.0.2", True, "yes"),
    ],
)
def test_board_that_came_with_a_version(text: str, ok: bool, said: str) -> None:
    """A model can be started from the version on that has its board."""
    found = Availability(MODELS["pi4"], QemuVersion.parse(text))

    assert (found.ok, str(found)) == (ok, said)


def test_every_model_is_looked_at(programs: Path) -> None:
    """Each by its own program: what one of them lacks does not matter to the others."""
    found = {each.machine.name: str(each) for each in availabilities(LocalEngine())}

    assert list(found) == list(MODELS)
    assert found["pi3-virt"] == found["pi3"] == "yes"
    assert found["pi4"] == "requires QEMU 9.0 or newer (installed: 7.2.22)"
    assert found["pi2-virt"] == "qemu-system-arm is not installed"


def test_old_qemu_is_refused(programs: Path) -> None:
    """The error names the model, both versions, and what to do."""
    with pytest.raises(
        EngineUnavailable, match=r"pi4 requires QEMU 9\.0 or newer, .* local has QEMU 7\.2\.22"
    ) as caught:
        require(MODELS["pi4"], LocalEngine())

    assert "bookworm-backports" in caught.value.tip
    assert "--pidoc-engine=docker" in caught.value.tip
    require(MODELS["pi3"], LocalEngine())


def test_old_qemu_is_refused_before_an_image_is_built(programs: Path, tmp_path: Path) -> None:
    """Nobody waits minutes for a guest that cannot be started."""
    settings = Settings(cache_dir=tmp_path / "cache", engine="local", model="pi4")

    with pytest.raises(EngineUnavailable, match=r"requires QEMU 9\.0 or newer"):
        provision(settings.spec(), settings, Progress())

    assert not settings.cache_dir.exists()


@pytest.mark.usefixtures("clusters", "no_settings")
def test_pidoc_models_is_a_table(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per model, with its row and what can be done here."""
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines] == ["model", *MODELS]
    row = next(line for line in lines if line.startswith("pi4 "))
    assert "raspi4b cortex-a72 4 2048M arm64 requires QEMU 9.0 or newer (installed: 7.2.22)" in " ".join(row.split())
