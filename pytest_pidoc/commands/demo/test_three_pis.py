"""Three emulated Raspberry Pis in a test: what `pidoc demo` runs."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.pidoc(nodes=3)


def test_three_machines_answer(pi_cluster):
    """Each node is a 64-bit ARM Linux machine."""
    for pi in pi_cluster:
        assert pi.run("uname -m").stdout.strip() == "aarch64"


def test_each_is_itself(pi_cluster):
    """Each node has its own host name."""
    assert [pi.run("hostname").stdout.strip() for pi in pi_cluster] == ["pi-1", "pi-2", "pi-3"]


def test_files_travel(pi_cluster, tmp_path):
    """A file that is copied to a node and back is unchanged."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(bytes(range(256)))
    pi_cluster[1].put(there, "bytes")
    pi_cluster[1].get("bytes", back)
    assert back.read_bytes() == there.read_bytes()
