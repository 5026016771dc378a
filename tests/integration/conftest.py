"""Fixtures of the tests that boot real machines: one cache for the session, and what is left must be nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.image import Image
from pytest_pidoc.progress import Progress
from pytest_pidoc.provision import build_image
from pytest_pidoc.sharing import locked

VERSATILE_KERNEL = Path(__file__).parent.parent / "versatile_kernel"

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


@pytest.fixture(scope="session")
def versatile_kernel(cache_dir: Path) -> dict[str, Path]:
    """Return a kernel for pi1-versatile and its device tree by their roles, built once from Debian's kernel source.

    The one that users get lies at a place that continuous integration cannot reach.
    """
    sources = sorted(Path("/usr/src").glob("linux-source-*.tar.xz"))
    if not sources:
        pytest.skip("linux-source is not installed")
    for tool in ("arm-linux-gnueabihf-gcc", "gcc", "make", "flex", "bison", "bc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    digest = hashlib.sha256(f"{sources[-1].name} {sources[-1].stat().st_size}".encode())
    for name in ("build", "config"):
        digest.update((VERSATILE_KERNEL / name).read_bytes())
    kernels = cache_dir / "versatile-kernels"
    kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = kernels / digest.hexdigest()
    with locked(kernels / "lock", purpose="building a kernel", timeout=3600):
        if not final.exists():
            new = kernels / "new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            subprocess.run([VERSATILE_KERNEL / "build", new], check=True, timeout=3600)
            new.rename(final)
    return {"kernel": final / "zImage", "dtb": final / "versatile-pb.dtb"}
