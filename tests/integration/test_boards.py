"""The boards themselves: nodes that are forked, or booted, on QEMU's Raspberry Pis."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.waiting import Deadline

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def pi1(settings: Settings) -> Iterator[Cluster]:
    """Two forks of a Raspberry Pi 1 that the tests of it share."""
    with Cluster.up(nodes=2, model="pi1", engine="local", settings=settings) as cluster:
        yield cluster


def test_pi1_is_the_board(pi1: Cluster) -> None:
    """An ARMv6 processor on a BCM2835, as /proc says, and it was forked."""
    pi = pi1[0]

    assert pi.timings.start == "warm"
    assert pi.run("uname -m").stdout.strip() == "armv6l"
    assert "BCM2835" in pi.run("cat /proc/cpuinfo").stdout
    assert pi.run("cat /proc/device-tree/model").stdout.rstrip("\0") == "Raspberry Pi Model A+"
    assert pi.run("findmnt -no SOURCE /").stdout.strip() == "/dev/mmcblk0"


def test_forks_of_a_pi1_are_not_the_same(pi1: Cluster) -> None:
    """Whatever tells two machines apart does."""
    for what in ("/etc/hostname", "/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/sys/class/net/eth0/address"):
        first, second = (pi.run(f"cat {what}").stdout for pi in pi1)
        assert first != second


def test_a_pi1s_card_keeps_what_is_written(pi1: Cluster) -> None:
    """The SD card is in the controller that the guest uses: what is read back comes from the card."""
    pi = pi1[0]
    written = pi.run("head -c 1M /dev/urandom >kept && sync && sha1sum kept").stdout
    pi.sudo("sh -c 'echo 3 >/proc/sys/vm/drop_caches'")

    assert pi.run("sha1sum kept").stdout == written


def test_a_pi1s_timers_go_on(pi1: Cluster) -> None:
    """Its timer was armed again, and its clock set; on a busy host that falls behind."""
    pi = pi1[0]
    began = time.monotonic()
    pi.run("sleep 3")

    assert time.monotonic() - began >= 2.5
    assert abs(float(pi.run("date +%s").stdout) - time.time()) < 60


def test_a_pi1_reboots_with_its_network(pi1: Cluster) -> None:
    """The card that was plugged in stays, under the same address, and QEMU finds it."""
    pi = pi1[1]
    before = pi.run("cat /etc/machine-id /sys/class/net/eth0/address").stdout
    pi.run("sudo systemctl reboot", warn=True)
    pi.close()
    time.sleep(3)  # until the SSH server that is about to end does not answer any more
    pi.await_ready(began=time.monotonic(), deadline=Deadline(200), cancelled=lambda: False)

    assert pi.run("cat /etc/machine-id /sys/class/net/eth0/address").stdout == before
    assert float(pi.run("cut -d' ' -f1 /proc/uptime").stdout) < 100


def test_a_pi1_is_put_back(pi1: Cluster) -> None:
    """A reset is another fork, with its own card plugged in."""
    pi = pi1[0]
    pi.run("touch gone-after-reset")

    pi.reset()

    assert pi.run("ls gone-after-reset", warn=True).failed
    assert pi.run("hostname").stdout.strip() == "pi-1"


def test_pi0_boots(settings: Settings) -> None:
    """The Zero is the same chip with another device tree, whose USB port is made a host."""
    with Cluster.up(model="pi0", engine="local", start="cold", settings=settings) as (pi,):
        assert pi.run("cat /proc/device-tree/model").stdout.rstrip("\0") == "Raspberry Pi Zero"
        assert pi.run("uname -m").stdout.strip() == "armv6l"
