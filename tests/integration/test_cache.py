"""The cache with real guests: who uses an image, and what an interrupted build or a full disk leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from leftovers import leftovers
from support import PIDOC, eventually

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import ImageInUse
from pytest_pidoc.host import records
from pytest_pidoc.images.store import usage
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.lifecycle import templates

ENGINES = (
    pytest.param("local", marks=pytest.mark.qemu),
    pytest.param("docker", marks=pytest.mark.docker),
)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_kept_nodes_run_from_is_in_use_for_everybody(
    engine: str, settings: Settings, image: Image, tmp_path: Path
) -> None:
    """No process of ours watches nodes that outlive their owner: QEMU's locks say it, also out of a container."""
    cluster = Cluster.up(nodes=1, engine=engine, settings=settings, keep=True)
    try:
        template = Path(records.read(cluster.directory)["template"])
        for path in (image.path, template):
            with pytest.raises(ImageInUse), usage.claimed(settings.cache_dir, path):
                pass
        with pytest.raises(ImageInUse):
            Cache(settings.cache_dir).remove(template)
        done = subprocess.run(
            [*PIDOC, "prune", "--dry-run", "--days", "0", "--cache-dir", str(settings.cache_dir)],
            env={**os.environ, "TMPDIR": str(tmp_path), "DOCKER_HOST": "unix:///nowhere/docker.sock"},
            capture_output=True,
            text=True,
            check=True,
        )
        for kept in (image, Image.read(template)):
            (line,) = [line for line in done.stdout.splitlines() if str(kept) in line]
            assert line.startswith("would keep ")
            assert line.endswith(": a cluster uses it")
    finally:
        cluster.down()


UP = """
import os, signal, sys

def kill(event, arguments):
    if event == "os.rename" and "/images/.new-" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv.pop(1) == "killed":
    sys.addaudithook(kill)
from pytest_pidoc.cli import main
sys.exit(main())
"""


@pytest.mark.qemu
def test_a_start_that_is_killed_while_it_keeps_the_saved_machine(
    settings: Settings, image: Image, tmp_path: Path, short_path: Path
) -> None:
    """At the very last step: the next start saves the machine anew, and nothing of the first is left or used."""
    own = tmp_path / "cache" / "images" / image.path.name
    own.mkdir(parents=True)
    for path in image.path.iterdir():
        (own / path.name).symlink_to(path)
    environment = {**os.environ, "TMPDIR": str(short_path), "PIDOC_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", UP, "killed", "up", "--engine", "local", "--nodes", "1", "--json"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert first.returncode == -signal.SIGKILL, first.stderr
    clusters = short_path / f"pidoc-{os.getuid()}"
    assert eventually(lambda: not list(clusters.glob("c-*")), timeout=20)
    cache = Cache(tmp_path / "cache")
    assert [each.path for each in cache.images()] == [own]
    (half,) = cache.leftovers()

    command[3] = "whole"
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert second.returncode == 0, second.stderr
    cluster = Cluster.attach(Path(json.loads(second.stdout)["directory"]))
    with cluster:
        assert cluster[0].run("uname -s").stdout.strip() == "Linux"
        assert cluster[0].timings.start == "warm"
    assert leftovers(cluster.name) == []
    assert not half.exists()
    assert cache.leftovers() == []
    (template,) = [each for each in cache.images() if templates.image_booted(each.manifest)]
    cache.verify(template)


FULL = """
import pathlib, sys
from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.store.cache import Cache
cache = Cache(pathlib.Path(sys.argv[1]))
try:
    debian.build(cache, debian.recipe("debian"), "arm64")
except ImageError as error:
    print(error)
assert cache.images() == cache.leftovers() == [], "nothing is left"
"""


@pytest.mark.qemu
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")
def test_a_build_on_a_disk_that_is_too_small(tmp_path: Path) -> None:
    """The error says what ran out and where more is written; nothing is left of 48 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=48M,mode=0700 none "$1" && "$2" -c "$3" "$1/cache" && find "$1/cache" -type f'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(small), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout or "enough free space" in done.stdout
    assert "Downloading and unpacking Debian's packages failed" in done.stdout
    assert "/logs/" in done.stdout
    with contextlib.suppress(FileNotFoundError):
        assert list(small.iterdir()) == []


@pytest.mark.qemu
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("pages", [1, 20])
def test_a_start_in_a_temporary_directory_that_is_full(
    settings: Settings, image: Image, short_path: Path, pages: int
) -> None:
    """It is an error that says so and what to do, be it the cluster's record or a node's disk that has no room."""
    Cluster.up(nodes=1, engine="local", settings=settings).down()  # so that the saved machine is there
    small = (
        'mount -t tmpfs -o size=$(($1 * 4096)),mode=0700 none "$2" && TMPDIR=$2 "$3" -c "$4" whole up --engine local'
    )
    command = ["unshare", "--mount", "sh", "-c", f'{small}; echo "status $?"; find "$2"', "sh", str(pages)]
    done = subprocess.run(
        [*command, str(short_path), sys.executable, UP],
        env={**os.environ, "PIDOC_CACHE_DIR": str(settings.cache_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.stdout.splitlines()[0] == "status 1", done.stderr
    assert "The nodes' files cannot be written: No space left on device" in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert "/c-" not in done.stdout.replace("/failed/c-", "")
