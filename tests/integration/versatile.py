"""A kernel for pi1-versatile, built once from Debian's source of Linux: users' lies where no test can reach it.

Run as ``python versatile.py CACHE`` it is built before a test needs it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from pytest_pidoc.host.locks import locked

__all__ = ["kernel", "missing"]

RECIPE = Path(__file__).parent.parent / "versatile_kernel"
TOOLS = ("arm-linux-gnueabihf-gcc", "gcc", "make", "flex", "bison", "bc")
MADE_FOR = "linux-source-6.1.tar.xz"  # which is taken if a machine has other sources, too
TIMEOUT = 3600  # seconds; six minutes of processor time


def missing() -> str | None:
    """Return what it cannot be built without."""
    if _source() is None:
        return "linux-source is not installed"
    return next((f"{tool} is not installed" for tool in TOOLS if shutil.which(tool) is None), None)


def kernel(cache: Path) -> dict[str, Path]:
    """Return the kernel and its device tree by their roles, built if they are not in *cache*."""
    source = _source()
    assert source is not None, missing()
    digest = hashlib.sha256(f"{source.name} {source.stat().st_size}".encode())
    for name in ("build", "config"):
        digest.update((RECIPE / name).read_bytes())
    kernels = cache / "versatile-kernels"
    kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = kernels / digest.hexdigest()
    with locked(kernels / "lock", purpose="building a kernel", timeout=TIMEOUT):
        if not final.exists():
            new = kernels / "new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            subprocess.run([RECIPE / "build", source, new], check=True, timeout=TIMEOUT)
            new.rename(final)
    return {"kernel": final / "zImage", "dtb": final / "versatile-pb.dtb"}


def _source() -> Path | None:
    """Return the source of Linux that the recipe is made for, or else the last of those there are."""
    found = sorted(Path("/usr/src").glob("linux-source-*.tar.xz"), key=lambda path: (path.name == MADE_FOR, path.name))
    return found[-1] if found else None


if __name__ == "__main__":
    kernel(Path(sys.argv[1]))
