"""Real machines that restart, are switched off and on, lose their power, hang, and die by themselves."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from invoke.exceptions import CommandTimedOut
from leftovers import leftovers
from support import make_image, make_launch, vm_of

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import FaultError, KernelPanic, NodeDied, NodeRestarted, WaitTimeout
from pytest_pidoc.machines import MODELS
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu import events
from pytest_pidoc.qemu.monitor import Monitor
from pytest_pidoc.qemu.overlay import overlay_command
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.files import OVERLAY, QMP_SOCKET
from pytest_pidoc.values.progress import Progress
from tests.performance.power_cuts import FIRST, power_cuts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_pidoc.images.store.image import Image
    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings

WHO = "hostname; cat /etc/machine-id /sys/class/net/eth0/address /etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture(scope="module")
def own(engine: str, settings: Settings, image: Image) -> Iterator[Cluster]:
    """One node that the tests of this module switch."""
    with Cluster.up(nodes=1, engine=engine, settings=settings) as cluster:
        yield cluster
    assert leftovers(cluster.name) == []


@pytest.fixture
def pi(own: Cluster) -> Iterator[Node]:
    yield own[0]
    assert own.faults.undo_all() == []


def who(pi: Node) -> list[str]:
    """Return what must stay over a restart."""
    pi.connection.open()
    key = pi.connection.transport.get_remote_server_key().get_base64()
    return [*pi.run(WHO).stdout.splitlines(), str(pi.port), key, *vm_of(pi).host_keys]


def boot_id(pi: Node) -> str:
    return str(pi.run("cat /proc/sys/kernel/random/boot_id").stdout)


def clock_error(pi: Node) -> float:
    return abs(float(pi.run("date +%s.%N").stdout) - time.time())


def test_power_cut_right_after_the_start(pi: Node, own: Cluster) -> None:
    """What was synced stays; the node is itself again, though its disk had not all of that yet; its clock is right."""
    before, boot = who(pi), boot_id(pi)
    pi.sudo("truncate -s 3 /etc/hostname")  # as if the disk had its new bytes and its old length
    pi.run("echo synced > kept; sync; touch /tmp/here")

    with pi.power_cut():
        with pytest.raises(NodeDied, match=r"pi-1 is off since power_cut\(\) at"):
            pi.run("true")
        with pytest.raises(FaultError, match=r"pi-1 is off since .*, so it cannot be paused"):
            pi.pause()

    assert pi.run("cat kept").stdout == "synced\n"
    assert who(pi) == before
    assert boot_id(pi) != boot
    assert clock_error(pi) < 5
    assert pi.timings.start == "cold"
    with contextlib.closing(Cluster.attach(own.name)) as seen:
        assert vm_of(seen[0]).death() is None
        assert seen[0].run("hostname").stdout == "pi-1\n"


def test_guest_with_its_users_name_that_prints_more_than_it_is_asked(pi: Node) -> None:
    """A profile that prints, on both streams, hides no answer; the host name that a user gave the guest stays."""
    noise = "echo Welcome to the lab; echo perl: warning: Setting locale failed. >&2"
    pi.run(f"sed -i '1i {noise}' ~/.bashrc; sudo hostnamectl set-hostname octopi; sync")

    with pi.power_cut():
        pass

    done = pi.sudo("hostname")
    assert done.stdout.splitlines() == ["Welcome to the lab", "octopi"]
    with pi.clock.jump(-3600):
        assert float(pi.run("date +%s").stdout.split()[-1]) < time.time() - 3000
    assert float(pi.run("date +%s").stdout.split()[-1]) == pytest.approx(time.time(), abs=10)
    pi.run("sed -i 1d ~/.bashrc; sudo hostnamectl set-hostname pi-1; sync")


def test_guest_that_restarts_after_its_panic(pi: Node) -> None:
    """It is an error only until the guest has restarted; the node is itself then, though its disk was not yet."""
    pi.reset()
    before, boot = who(pi), boot_id(pi)
    later = "nohup sudo sh -c 'sleep 1; echo c > /proc/sysrq-trigger' >/dev/null 2>&1 &"
    pi.run(f"sudo sysctl -q kernel.panic=2; mkfifo endless; {later}")

    with pytest.raises((KernelPanic, NodeRestarted)):
        pi.get("endless", os.devnull)
    pi.wait_for_reboot()

    assert pi.state == "up"
    assert who(pi) == before
    assert boot_id(pi) != boot
    assert clock_error(pi) < 5
    with pytest.raises(WaitTimeout, match=r"pi-1 has not restarted within 1 s\."):
        pi.wait_for_reboot(timeout=1)


def test_call_ends_when_the_guest_restarts(pi: Node, own: Cluster) -> None:
    """It says so within a second; the next call waits for the guest, in another process too."""
    pi.reset()
    before = who(pi)
    later = "nohup sudo sh -c 'sleep 1; echo b > /proc/sysrq-trigger' >/dev/null 2>&1 &"

    with pytest.raises(NodeRestarted, match=r"pi-1 restarted at \d\d:\d\d:\d\d by the guest itself, before a command"):
        pi.run(f"{later} sleep 600")

    with contextlib.closing(Cluster.attach(own.name)) as seen:
        assert seen[0].run("uptime -p").stdout.startswith("up")
    assert who(pi) == before


def test_reboot_returns_with_the_new_system(pi: Node) -> None:
    """The old SSH server is not taken for the new one; console and serial log go on."""
    before, boot, log = who(pi), boot_id(pi), pi.serial_log.size()
    console = pi.console
    pi.run("echo written > kept; echo 1 > /tmp/gone; sudo sh -c 'echo 1 > /run/gone'")

    pi.reboot()

    assert boot_id(pi) != boot
    assert pi.run("cat kept; ls /run/gone", warn=True).stdout == "written\n"
    assert who(pi) == before
    assert clock_error(pi) < 5
    assert pi.serial_log.size() > log
    assert pi.console is console
    console.log_in(deadline=Deadline(60))
    assert console.run("echo here").text == "here\n"


def test_shut_down_node_is_started_again(pi: Node) -> None:
    """What was written is on the disk without a sync; a reset gives the first state afterwards."""
    before = who(pi)
    pi.run("echo 'not synced' > kept")

    pi.shutdown()

    with pytest.raises(NodeDied, match=r"pi-1 is off since shutdown\(\) at"):
        pi.put(__file__, "file")
    pi.power_on()
    assert pi.run("cat kept").stdout == "not synced\n"
    assert who(pi) == before
    pi.reset()
    assert pi.run("ls").stdout == ""
    assert who(pi) == before
    assert pi.timings.start == "warm"


def test_reboot_can_be_scheduled(pi: Node) -> None:
    """``shutdown``, which Ansible's reboot uses, finds logind: systemd starts it when somebody asks for it."""
    assert "Reboot scheduled" in pi.sudo("shutdown -r +60").stderr
    assert pi.run("systemctl is-active systemd-logind").stdout == "active\n"
    assert pi.sudo("shutdown -c").ok


def test_paused_node_hangs_and_goes_on(pi: Node) -> None:
    """A command with a time-out ends with it, also one that began before; then all goes on."""
    with pi.pause(), pytest.raises(CommandTimedOut):
        pi.run("true", timeout=2)
    assert pi.run("echo here").stdout == "here\n"


def test_node_that_switches_itself_off_has_died(pi: Node) -> None:
    """The next call says so, with the last serial lines, and soon; it can be started again."""
    with contextlib.suppress(NodeDied):
        pi.run("sudo systemctl poweroff", warn=True)
    began = time.monotonic()

    with pytest.raises(NodeDied, match="pi-1 died while it ran 'sleep 100': QEMU ended with status 0") as caught:
        pi.run("sleep 100")

    assert time.monotonic() - began < 60
    assert "Power down" in caught.value.evidence
    pi.power_on()
    assert pi.run("hostname").stdout == "pi-1\n"


def test_broken_connections_are_not_logged(pi: Node, caplog: pytest.LogCaptureFixture) -> None:
    """What pytest shows of the log of a failed test has no traceback of a connection that a restart or a cut broke."""
    pi.reboot()
    cut = threading.Timer(1, pi.power_cut)
    cut.start()
    with pytest.raises(NodeDied, match=r"pi-1 is off since power_cut\(\)"):
        pi.run("sleep 100")
    cut.join()
    pi.power_on()

    assert [record.message for record in caplog.records if record.levelno >= logging.INFO] == []


@pytest.mark.qemu
def test_kernel_that_panics_ends_the_command(settings: Settings, image: Image) -> None:
    """A machine that hangs in its last words is found, and so is one that restarts itself."""
    with Cluster.up(nodes=1, engine="local", settings=settings) as cluster:
        pi = cluster[0]
        with pytest.raises(KernelPanic, match="The kernel of pi-1 gave up: Kernel panic - not syncing: sysrq"):
            pi.sudo("sh -c 'echo c > /proc/sysrq-trigger'")
        with pytest.raises(KernelPanic):
            pi.run("true")
        pi.reset()
        assert pi.run("hostname").stdout == "pi-1\n"


def test_what_was_synced_outlives_power_cuts(engine: str, settings: Settings, image: Image) -> None:
    """Every record that was reported before a cut is there, and the file system has nothing to say."""
    report = power_cuts(replace(settings, engine=engine), cuts=3 if engine == "local" else 1, progress=Progress())

    assert report.ok, str(report)
    assert min(cut.reported for cut in report.cuts) >= FIRST


@pytest.mark.qemu
def test_what_was_synced_to_an_sd_card_outlives_power_cuts(settings: Settings) -> None:
    """A guest cannot ask an SD card to write its cache, so there must not be one."""
    report = power_cuts(replace(settings, engine="local", model="pi3"), cuts=1, progress=Progress())

    assert report.ok, str(report)
    assert report.cuts[0].reported >= FIRST


@pytest.mark.qemu
@pytest.mark.parametrize("model", ["pi1", "pi2", "pi3"])
def test_what_was_written_to_an_sd_card_is_in_its_file(model: str, tmp_path: Path) -> None:
    """QEMU is killed after a write; the tables of the card's file lead to what was written."""
    machine = MODELS[model]
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=machine)
    subprocess.run(overlay_command(disk), cwd=launch.directory, check=True)
    events.prepare(launch.directory)
    arguments = qemu.arguments(launch, guest=tmp_path, forward="tcp:127.0.0.1:0")
    options = dict.fromkeys(("-blockdev", "-drive", "-chardev", "-mon", "-machine", "-m"))
    taken = [part for pair in pairwise(arguments) if pair[0] in options for part in pair]
    with subprocess.Popen(
        [machine.binary, "-S", "-display", "none", "-nodefaults", *taken], cwd=launch.directory
    ) as it:
        try:
            with Monitor.connect(launch.directory / QMP_SOCKET) as monitor:
                monitor.human('qemu-io disk0 "write -P 42 100M 512"')
        finally:
            it.kill()

    with subprocess.Popen(["qemu-io", "-r", "-c", "read -P 42 100M 512", OVERLAY], cwd=launch.directory) as reading:
        assert reading.wait() == 0


def test_another_process_switches_a_node(own: Cluster, settings: Settings) -> None:
    """It is who it was, and forked from the machine it was forked from."""
    before = who(own[0])
    with contextlib.closing(Cluster.attach(own.name)) as view:
        pi = view[0]
        pi.power_cut().undo()
        vm_of(pi).disconnect()  # it may have begun with the key of the image, if the own one was not synced
        assert who(pi) == before
        pi.run("touch here")
        pi.reset()
        assert pi.timings.start == "warm"
        assert who(pi) == before
        assert not pi.run("ls here", warn=True).ok
    vm_of(own[0]).disconnect()
    with contextlib.closing(Cluster.attach(own.name)) as view:
        assert who(view[0]) == before
