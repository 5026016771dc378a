"""The programs that a build runs: whether they are installed, and where to look for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from pytest_pidoc.errors import ImageError

__all__ = ["require_tools", "search_path"]


def require_tools(tools: Mapping[str, str]) -> None:
    """Look for programs; *tools* has the Debian package of each.

    Raises
    ------
    ImageError
        Some are missing; the tip is the command that installs them.
    """
    missing = [tool for tool in tools if shutil.which(tool, path=search_path()) is None]
    if missing:
        raise ImageError(
            f"Building an image needs programs that are not installed: {', '.join(missing)}.",
            tip=f"run apt-get install {' '.join(sorted({tools[tool] for tool in missing}))}",
        )


def search_path() -> str:
    """Return ``PATH`` with the places where Debian keeps mke2fs and an ordinary user does not look."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
