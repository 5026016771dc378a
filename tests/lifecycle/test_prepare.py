"""What a prepared cluster is known by, and how nodes are forked from it; the preparation itself needs real nodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import make_image, make_launch

from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.guest.identity import Identity
from pytest_pidoc.lifecycle.prepare import key
from pytest_pidoc.lifecycle.saved import ORIGIN, Saved
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.settings.spec import ClusterSpec


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return make_launch(tmp_path / "node", make_image(tmp_path / "image"))


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return a saved cluster of one node, without the files that only QEMU reads."""
    (tmp_path / "saved" / "pi-1").mkdir(parents=True)
    (tmp_path / "saved" / ORIGIN).write_text("c-12345678")
    return Saved(tmp_path / "saved")


@pytest.mark.qemu
@pytest.mark.parametrize("change", [{"nodes": 3}, {"lan": False}, {"hostname": "broker-{n}"}])
def test_what_a_cluster_is_belongs_to_its_key(launch: Launch, change: dict[str, object]) -> None:
    """Another number of nodes, or other names or addresses, is another cluster."""
    engine, spec = LocalEngine(), ClusterSpec(nodes=2)

    assert key(spec, launch, engine, ["a"]) != key(dataclasses.replace(spec, **change), launch, engine, ["a"])  # type: ignore[arg-type]


@pytest.mark.qemu
def test_what_was_done_belongs_to_the_key_in_its_order(launch: Launch) -> None:
    """Each further step is another cluster; what is only given to forks is none."""
    engine, spec = LocalEngine(), ClusterSpec(nodes=2)
    done = [["a"], ["a", "b"], ["b", "a"], ["ab"]]

    assert len({key(spec, launch, engine, digests) for digests in done}) == len(done)
    forks = dataclasses.replace(spec, cpus=0.5, internet=False)
    assert key(forks, launch, engine, ["a"]) == key(spec, launch, engine, ["a"])


def test_nodes_keep_the_addresses_with_which_they_were_saved(launch: Launch, saved: Saved) -> None:
    """In every cluster that is forked from it; a new node has others."""
    forks = [saved.launch(dataclasses.replace(launch, cluster=cluster)) for cluster in ("c-11111111", "c-22222222")]

    for address in (qemu.mac_address, qemu.lan_mac_address):
        assert address(forks[0]) == address(forks[1]) == address(dataclasses.replace(launch, cluster="c-12345678"))
        assert address(forks[0]) != address(launch)
    assert forks[0].template == saved.path / "pi-1"


def test_machine_is_the_same_for_all_nodes(launch: Launch, tmp_path: Path) -> None:
    """A saved machine has no origin, and each node that is forked from it is a new one."""
    forked = Saved(tmp_path).launch(launch)

    assert (forked.template, forked.origin) == (tmp_path, "")


def test_renewal_changes_neither_name_nor_key() -> None:
    """A node that goes on hears the time, random bytes and its boot id, and nothing that it is known by."""
    identity = Identity.new("pi-1", "52:54:00:00:00:01", None)

    told = [line.split()[0] for line in identity.renewal().decode().splitlines()]

    assert told == ["clock", "random_seed", "boot_id", "end"]
    again = identity.reborn()
    assert (again.host_keys, again.machine_id, again.mac_address) == (
        identity.host_keys,
        identity.machine_id,
        identity.mac_address,
    )
    assert (again.boot_id, again.random_seed) != (identity.boot_id, identity.random_seed)
