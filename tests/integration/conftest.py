"""Fixtures of the tests that boot real machines: one cache for the session, and what is left must be nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import versatile

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.engines import cgroups
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.lifecycle.provision import build_image
from pytest_pidoc.node import Node
from pytest_pidoc.values.progress import Progress

ENGINES = (
    pytest.param("local", marks=pytest.mark.qemu),
    pytest.param("docker", marks=pytest.mark.docker),
)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of PIDOC_CACHE_DIR, or an empty one."""
    given = os.environ.get("PIDOC_CACHE_DIR")
    return Path(given) if given else tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def settings(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(cache_dir=cache_dir, artifacts=tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="session")
def image(settings: Settings) -> Image:
    """Return the default image; built if it is not there."""
    return build_image(settings.spec(), settings, Progress())


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(engine: str, settings: Settings, image: Image) -> Iterator[Cluster]:
    """Three nodes that the tests of a module share."""
    with Cluster.up(nodes=3, engine=engine, settings=settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def any_node(engine: str, settings: Settings, image: Image) -> Iterator[Node]:
    """One node per engine, which the tests of a module share."""
    with Cluster.up(nodes=1, engine=engine, settings=settings) as cluster:
        yield cluster[0]


@pytest.fixture(scope="module")
def node(settings: Settings, image: Image) -> Iterator[Node]:
    """One node on this host, which the tests of a module share."""
    with Cluster.up(nodes=1, engine="local", settings=settings) as cluster:
        yield cluster[0]


@pytest.fixture
def inner_clusters(
    pytester: pytest.Pytester, settings: Settings, image: Image, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Let a pytest that runs inside a test use the engine local and the session's cache; return its TMPDIR."""
    temporary = pytester.mkdir("tmp")
    monkeypatch.setenv("PIDOC_CACHE_DIR", str(settings.cache_dir))
    monkeypatch.setenv("PIDOC_ENGINE", "local")
    monkeypatch.setenv("PIDOC_REQUIRE", "yes")
    monkeypatch.setenv("TMPDIR", str(temporary))
    return temporary


@pytest.fixture(scope="session")
def versatile_kernel(cache_dir: Path) -> dict[str, Path]:
    """Return a kernel for pi1-versatile and its device tree by their roles."""
    if missing := versatile.missing():
        pytest.skip(missing)
    return versatile.kernel(cache_dir)


@pytest.fixture
def limits(engine: str, tmp_path: Path) -> None:
    """Skip where this user can make no control group, which the engine local needs."""
    if engine != "local":
        return
    process = subprocess.Popen(["sleep", "600"])
    try:
        cgroups.limit(tmp_path, f"try-{os.getpid()}", process.pid, 1)
    except cgroups.CgroupError as error:
        pytest.skip(f"no control group can be made here: {error}")
    finally:
        process.kill()
        process.wait()
        cgroups.remove(tmp_path)
