"""A fast model that tells its guest that it is the board."""

from __future__ import annotations

import pytest
from support import vm_of

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.machines import MODELS
from pytest_pidoc.node import Node
from pytest_pidoc.values.deadline import Deadline

pytestmark = pytest.mark.usefixtures("image")


def told(pi: Node) -> tuple[str, list[str]]:
    """Return the model and the compatible strings that the guest's kernel shows."""
    model, compatible = (pi.run(f"tr '\\0' '\\n' </proc/device-tree/{name}").stdout for name in ("model", "compatible"))
    return model.strip(), compatible.split()


def test_forked_node_is_the_board_also_after_a_restart(engine: str, settings: Settings, image: Image) -> None:
    """The node is forked from a template of its own, and its tree is there when the guest boots again."""
    row = MODELS["pi3-virt"]
    with Cluster.up(engine=engine, announce_board=True, settings=settings) as cluster:
        pi = cluster[0]
        assert pi.timings.start == "warm"
        assert told(pi) == (row.board, [*row.compatible, "linux,dummy-virt"])
        assert "00a02082" in pi.run("od -A n -t x4 --endian=big /proc/device-tree/system/linux,revision").stdout

        before = pi.run("cat /proc/sys/kernel/random/boot_id").stdout
        pi.console.log_in(deadline=Deadline(60), check=vm_of(pi).raise_if_dead)
        pi.console.run("sudo systemctl reboot --force", timeout=60)
        pi.console.log_in(deadline=Deadline(300), check=vm_of(pi).raise_if_dead)
        after = pi.console.run("cat /proc/sys/kernel/random/boot_id; tr -d '\\0' </proc/device-tree/model", timeout=60)

        assert before.strip() not in after.text
        assert row.board in after.text


@pytest.mark.qemu
def test_32_bit_kernel_takes_its_hardware_from_the_board(settings: Settings) -> None:
    """It starts its CPU and finds its devices as before, and calls the hardware what a Pi's does."""
    row = MODELS["pi2-virt"]
    with Cluster.up(model=row.name, engine="local", start="cold", announce_board=True, settings=settings) as cluster:
        pi = cluster[0]
        assert told(pi) == (row.board, [*row.compatible, "linux,dummy-virt"])
        assert "BCM2835" in pi.run("grep Hardware /proc/cpuinfo").stdout
        assert pi.run("systemctl --failed --no-legend").stdout == ""
