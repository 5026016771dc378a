"""The watchdog of a board: programs and systemd use it as on a real one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from support import require_machine, vm_of

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed"),
]

BOOT = "cat /proc/sys/kernel/random/boot_id"

#: Starts the watchdog with a timeout of 5 s (WDIOC_SETTIMEOUT), and never feeds it.
HUNGRY = """
import fcntl, struct, time
watchdog = open("/dev/watchdog", "wb", buffering=0)
fcntl.ioctl(watchdog, 0xC0045706, struct.pack("i", 5))
time.sleep(600)
"""


@pytest.fixture(scope="module")
def pi(settings: Settings) -> Iterator[Node]:
    """A board that the tests share."""
    require_machine(MODELS["pi3"])
    with Cluster.up(nodes=1, model="pi3", engine="local", settings=settings) as cluster:
        yield cluster[0]


def test_unfed_watchdog_resets_the_board(pi: Node, tmp_path: Path) -> None:
    """It does so when its time is over, and not before."""
    (tmp_path / "hungry.py").write_text(HUNGRY)
    pi.put(tmp_path / "hungry.py", "hungry.py")
    before = pi.run(BOOT).stdout.strip()
    pi.console.log_in(deadline=Deadline(60), check=vm_of(pi).raise_if_dead)
    pi.sudo("sync")

    pi.sudo("systemd-run --quiet python3 /home/pi/hungry.py")

    assert before in pi.console.run(BOOT, timeout=60).text  # QEMU's own would have reset it by now
    pi.console.expect("Started ssh.service", timeout=300)
    pi.console.log_in(deadline=Deadline(120), check=vm_of(pi).raise_if_dead)
    assert before not in pi.console.run(BOOT, timeout=60).text


def test_systemd_feeds_the_watchdog(pi: Node) -> None:
    """With RuntimeWatchdogSec= there is one boot, which ends when it should: with all file systems in order."""
    pi.reset()
    pi.sudo("mkdir -p /etc/systemd/system.conf.d")
    pi.sudo("sh -c 'printf \"[Manager]\\nRuntimeWatchdogSec=14\\n\" > /etc/systemd/system.conf.d/watchdog.conf'")

    pi.reboot()

    boot = pi.run(BOOT).stdout
    said = pi.sudo("cat /sys/class/watchdog/watchdog0/identity /sys/class/watchdog/watchdog0/state").stdout
    assert said == "Software Watchdog\nactive\n"
    assert "recovery complete" not in pi.sudo("dmesg").stdout
    pi.run("sleep 20")
    assert pi.run(BOOT).stdout == boot
