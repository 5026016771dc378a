"""What the doctor finds on a machine that has everything or nothing."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from support import forbidden_socket

from pytest_pidoc.commands import doctor
from pytest_pidoc.commands.doctor import Check, examine
from pytest_pidoc.errors import PidocError
from pytest_pidoc.qemu import guard
from pytest_pidoc.settings.spec import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("clusters", "no_settings")


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, no_docker: str) -> None:
    """Take away every program and the Docker daemon."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(doctor, "has_tool", lambda tool: False)


def checks(**settings: object) -> dict[str, Check]:
    return {check.name: check for check in examine(Settings.load(settings))}


@pytest.mark.usefixtures("nothing")
def test_machine_without_anything() -> None:
    """Every engine is missing, and every check that is not ok says what to do."""
    found = checks()

    assert not found["engine local"].ok
    assert not found["engine docker"].ok
    assert not found["building images"].ok
    assert "apt-get install" in found["engine local"].remedy
    assert "docker.io" in found["engine docker"].remedy
    assert "mmdebstrap" in found["building images"].remedy


@pytest.mark.qemu
def test_qemu_is_found_with_its_version(no_docker: str) -> None:
    """The engine local is there where QEMU is."""
    found = checks()

    assert found["engine local"].ok
    assert re.fullmatch(r"QEMU \d+\.\d+\.\d+", found["engine local"].found)


@pytest.mark.docker
def test_docker_is_found_with_its_version() -> None:
    """The engine docker is there where a daemon answers."""
    found = checks()

    assert found["engine docker"].ok
    assert found["engine docker"].found.startswith("Docker ")


def test_daemon_that_may_not_be_used(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is that of the error, here another one than to start Docker."""
    short_path.chmod(0o755)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{short_path / 'docker.sock'}")
    with forbidden_socket(short_path / "docker.sock"):
        found = doctor._docker(Settings())

    assert not found.ok
    assert found.found.startswith("Permission denied")
    assert found.remedy.startswith("add your user to the group docker")


def test_qemu_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that is there and prints nothing is to be reinstalled."""
    program = tmp_path / "bin" / "qemu-system-aarch64"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    assert "reinstall" in doctor._local(Settings()).remedy


@pytest.mark.usefixtures("nothing")
def test_memory_is_counted_in_nodes() -> None:
    """The check says how many nodes fit into what is available."""
    assert "nodes of pi3-virt" in checks()["memory"].found


@pytest.mark.usefixtures("nothing")
def test_cache_that_is_not_there_yet(no_settings: Path) -> None:
    """The free room is that of the directory in which the cache will be made."""
    found = checks()["cache"]

    assert str(no_settings) in found.found
    assert "GiB free" in found.found
    assert not no_settings.exists()


@pytest.mark.usefixtures("nothing")
@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_cache_that_is_not_writable(tmp_path: Path) -> None:
    """A cache that takes nothing is said with the option that names another."""
    (tmp_path / "locked").mkdir(mode=0o500)
    found = checks(cache_dir=tmp_path / "locked" / "cache")["cache"]

    assert not found.ok
    assert "--pidoc-cache-dir" in found.remedy


@pytest.mark.usefixtures("nothing")
def test_directory_of_clusters_that_cannot_be_trusted(clusters: Path) -> None:
    """A directory that others can enter is a finding, not a crash."""
    clusters.chmod(0o777)
    found = checks()["clusters"]

    assert not found.ok
    assert found.remedy


def test_missing_host_isolation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot isolate itself, here because QEMU already has a guard, gets a remedy."""
    alone = guard.command
    monkeypatch.setattr(guard, "command", lambda program: alone(alone(program)))
    found = doctor._isolation(Settings())

    assert not found.ok
    assert found.found.startswith("off: ")
    assert "guests can reach 127.0.0.1 of this host" in found.found
    assert "--pidoc-internet=no" in found.remedy


@pytest.mark.usefixtures("nothing")
def test_packages_for_building_and_running() -> None:
    """Where nothing is installed, both the building and the running tools are named, once each."""
    packages = doctor.missing_packages(docker=False)

    assert {"mmdebstrap", "qemu-system-arm", "qemu-utils", "openssh-client"} <= set(packages)
    assert packages == sorted(set(packages))


def test_packages_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every program is, nothing is to be installed."""
    monkeypatch.setattr(doctor, "has_tool", lambda tool: True)

    assert doctor.missing_packages(docker=False) == []


def test_tool_is_found_where_only_root_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """mke2fs is in /sbin, which is not in everybody's PATH."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert doctor.has_tool("ldconfig")
    assert not doctor.has_tool("no-such-tool")


@pytest.mark.usefixtures("nothing")
def test_install_without_apt_names_the_packages(tmp_path: Path) -> None:
    """On another distribution, the error says what to look for, and nothing is tried."""
    with pytest.raises(PidocError, match="mmdebstrap, qemu-utils") as caught:
        doctor.install(["mmdebstrap", "qemu-utils"], tmp_path / "install.log")

    assert "your distribution" in caught.value.tip
    assert not (tmp_path / "install.log").exists()


def test_install_that_fails_shows_the_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What apt-get said last is in the error, and the rest in the log."""
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho E: no network\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PidocError, match="apt-get update failed") as caught:
        doctor.install(["mmdebstrap"], tmp_path / "logs" / "install.log")

    assert caught.value.evidence == "E: no network"
    assert caught.value.look == str(tmp_path / "logs" / "install.log")


def test_install_without_root_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root gets the exact command."""
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PidocError) as caught:
        doctor.install(["mmdebstrap"], tmp_path / "install.log")

    assert caught.value.tip == "run sudo apt-get install --yes --no-install-recommends mmdebstrap"
