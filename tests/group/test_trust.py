"""What nodes get that log in to each other, in the homes of their users."""

from __future__ import annotations

import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support import vm_of

from pytest_pidoc.errors import FaultError, PidocError
from pytest_pidoc.group.trust import KEY, establish

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_pidoc.cluster import Cluster


def trust(cluster: Cluster) -> None:
    """As ``cluster.trust()``, without a LAN."""
    establish(cluster, {node.name: vm_of(node).host_keys for node in cluster}, cluster.directory)


def files(home: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (home / ".ssh").iterdir()}


def test_user_of_each_node_gets_the_clusters_key(cluster: Cluster, homes: list[Path]) -> None:
    """The same on all nodes, which accept it, with the modes that sshd and ssh demand; it is not the one of tests."""
    trust(cluster)

    private, public, accepted = (
        {files(home)[name] for home in homes} for name in ("id_ed25519", "id_ed25519.pub", "authorized_keys")
    )
    assert len(private) == 1
    assert public == accepted
    assert cluster[0].private_key.read_text() not in private
    assert stat.S_IMODE((homes[0] / ".ssh").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for home in homes for path in (home / ".ssh").iterdir()} == {0o600}
    assert stat.S_IMODE((cluster.directory / KEY).stat().st_mode) == 0o600
    if shutil.which("ssh-keygen"):
        derived = ["ssh-keygen", "-y", "-f", homes[0] / ".ssh" / "id_ed25519"]
        said = subprocess.run(derived, capture_output=True, text=True, check=True).stdout
        assert said.split()[:2] == public.pop().split()[:2]


def test_nodes_are_known_by_names_and_addresses(cluster: Cluster, homes: list[Path]) -> None:
    """Each knows all of them, and itself as localhost."""
    trust(cluster)

    for node, home in zip(cluster, homes, strict=True):
        known = {}
        for line in files(home)["known_hosts"].splitlines():
            names, *key, comment = line.split()
            known.update(dict.fromkeys(names.split(","), " ".join(key)))
            assert comment == "pidoc-trust"
        for number, other in enumerate(cluster, 1):
            (host_key,) = vm_of(other).host_keys
            assert known[other.name] == known[f"{other.name}.local"] == known[f"192.168.77.{number}"] == host_key
        assert known["localhost"] == known["127.0.0.1"] == known[node.name]


def test_nodes_are_known_by_host_names_of_their_own(cluster: Cluster, homes: list[Path]) -> None:
    """A guest's name can be another than its node's."""
    host_keys = {node.name: vm_of(node).host_keys for node in cluster}
    establish(
        cluster, host_keys, cluster.directory, host_names={node.name: f"broker-{node.name[3:]}" for node in cluster}
    )

    (line,) = [line for line in files(homes[0])["known_hosts"].splitlines() if line.startswith("pi-2")]
    assert line.split()[0] == "pi-2,pi-2.local,broker-2,broker-2.local,192.168.77.2"


def test_another_call_changes_nothing(cluster: Cluster, homes: list[Path]) -> None:
    """Nor do several at once; and what others have put into the files stays."""
    for name in ("authorized_keys", "known_hosts"):
        cluster.run(f"mkdir -p .ssh; echo a line of the test >> .ssh/{name}")
    trust(cluster)
    before = [files(home) for home in homes]

    with ThreadPoolExecutor() as pool:
        list(pool.map(trust, [cluster] * 3))

    assert [files(home) for home in homes] == before
    assert all(files(home)["authorized_keys"].startswith("a line of the test\n") for home in homes)
    assert all(files(home)["known_hosts"].startswith("a line of the test\n") for home in homes)


def test_node_that_has_lost_it_gets_it_again(cluster: Cluster, homes: list[Path]) -> None:
    """As after ``reset()``: the others stay as they are."""
    trust(cluster)
    before = [files(home) for home in homes]
    shutil.rmtree(homes[1] / ".ssh")

    trust(cluster)

    assert [files(home) for home in homes] == before


def test_key_of_the_tests_own_is_not_replaced(cluster: Cluster, homes: list[Path]) -> None:
    """It is named, and nothing secret is said."""
    cluster["pi-2"].run("mkdir .ssh; echo mine > .ssh/id_ed25519")

    with pytest.raises(PidocError, match=r"trust\(\) failed on 1 of 3 nodes: pi-2\.") as caught:
        trust(cluster)

    assert ".ssh/id_ed25519 is another key" in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    assert files(homes[1]) == {"id_ed25519": "mine\n"}


def test_cluster_without_a_lan(cluster: Cluster) -> None:
    """Nodes that do not reach each other cannot log in to each other."""
    with pytest.raises(FaultError, match="has no LAN"):
        cluster.trust()
