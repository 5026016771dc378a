"""The Debian guest behaves as any Debian does to what a user installs in it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_pidoc.node import Node

pytestmark = pytest.mark.qemu

PACKAGE = {
    "DEBIAN/control": "Package: greeter\nVersion: 1.0\nArchitecture: all\nMaintainer: Me <me@example.org>\n"
    "Description: says hello\n",
    "usr/bin/greet": "#!/bin/sh\necho hello\n",
    "usr/share/doc/greeter/README": "Run greet.\n",
    "usr/share/doc/greeter/copyright": "Mine.\n",
    "usr/share/info/greeter.info": "This is greeter.info.\n",
    "usr/share/locale/de/LC_MESSAGES/greeter.mo": "hallo\n",
    "usr/share/man/man1/greet.1": ".TH GREET 1\n",
}


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")
def test_an_installed_package_is_complete(node: Node, tmp_path: Path) -> None:
    """Its manual page, documentation and translations are there, although the image's own packages have none."""
    root = tmp_path / "greeter"
    for name, text in PACKAGE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/bin/greet").chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, tmp_path / "greeter.deb"], check=True)
    node.put(tmp_path / "greeter.deb", "greeter.deb")

    node.sudo("dpkg --install greeter.deb")

    assert node.run("greet").stdout == "hello\n"
    files = [f"/{name}" for name in PACKAGE if not name.startswith("DEBIAN")]
    assert set(files) <= set(node.run("dpkg --listfiles greeter").stdout.split())
    assert node.run(f"ls {' '.join(files)}").ok
    assert node.run("dpkg --verify greeter").stdout == ""
