"""``cmdline.txt`` and ``config.txt``, as playbooks edit them: what they ask for is there when the node boots again."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_pidoc.images.store.image import Image
    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings

CMDLINE, CONFIG = "/boot/firmware/cmdline.txt", "/boot/firmware/config.txt"
K3S = "cgroup_memory=1 cgroup_enable=memory"

on_one_engine = pytest.mark.parametrize("engine", [pytest.param("local", marks=pytest.mark.qemu)], indirect=True)


@pytest.fixture(scope="module")
def started(engine: str, settings: Settings, image: Image) -> Iterator[Node]:
    with Cluster.up(engine=engine, announce_board=True, settings=settings) as cluster:
        yield cluster[0]


@pytest.fixture
def pi(started: Node) -> Iterator[Node]:
    """Give the node, and put its files back, as a playbook's user would."""
    before = {path: started.read(path) for path in (CMDLINE, CONFIG)}
    yield started
    for path, content in before.items():
        started.write(path, content, sudo=True)


def arguments(pi: Node) -> list[str]:
    return str(pi.run("cat /proc/cmdline").stdout).split()


def test_files_are_there_and_say_what_is_true(pi: Node) -> None:
    """The line is the one that the kernel was started with; it is an ordinary file, and has what playbooks look for."""
    assert pi.timings.start == "warm"
    assert pi.read(CMDLINE).split() == arguments(pi)
    assert "rootwait" in arguments(pi)
    assert pi.run(f"stat -c '%F %U %a' {CMDLINE} {CONFIG}").stdout.splitlines() == ["regular file root 644"] * 2
    assert "#dtparam=i2c_arm=on" in pi.read(CONFIG)


def test_what_k3s_adds_is_there_after_a_reboot(pi: Node) -> None:
    """The arguments stay over further boots, also of the guest's own and after a power cut, and go with the line."""
    boot = pi.run("cat /proc/sys/kernel/random/boot_id").stdout
    pi.sudo(f"sed -i 's/rootwait/rootwait {K3S}/' {CMDLINE}")
    assert "cgroup_memory=1" not in arguments(pi)

    pi.reboot()

    assert arguments(pi)[-2:] == K3S.split()
    assert pi.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    assert "memory" in pi.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split()
    assert pi.run("hostname").stdout == "pi-1\n"
    with contextlib.closing(Cluster.attach(pi.directory.parent)) as seen:  # as another process would
        seen[0].sudo(f"sed -i 's/cgroup_memory=1 //' {CMDLINE}")
        seen[0].reboot()
        assert arguments(seen[0])[-2:] == ["rootwait", "cgroup_enable=memory"]
    with pi.power_cut():
        pass
    assert arguments(pi)[-2:] == ["rootwait", "cgroup_enable=memory"]

    pi.reset()

    assert arguments(pi) == pi.read(CMDLINE).split()
    assert "rootwait" in arguments(pi)
    assert "cgroup_enable=memory" not in arguments(pi)


@on_one_engine
def test_node_that_boots_by_itself_follows_the_line(pi: Node) -> None:
    """It was restarted with the former arguments, so it boots once more; a shutdown needs no further boot."""
    pi.sudo(f"sed -i 's/$/ loglevel=5/' {CMDLINE}")
    pi.sudo("systemctl reboot", warn=True)
    pi.wait_for_reboot()
    assert "loglevel=5" in arguments(pi)

    pi.sudo(f"sed -i 's/loglevel=5/loglevel=6/' {CMDLINE}")
    with pi.shutdown():
        pass
    assert "loglevel=6" in arguments(pi)
    assert "loglevel=5" not in arguments(pi)


@on_one_engine
def test_what_cannot_be_done_is_named_once(pi: Node) -> None:
    """The rest counts; nothing is said of the same again."""
    pi.sudo(f"sed -i 's/$/ console=tty1 panic=7/' {CMDLINE}")
    pi.sudo(f"sh -c 'echo cgroup_enable=memory >> {CMDLINE}'")  # as a playbook's lineinfile does
    pi.write(CONFIG, f"{pi.read(CONFIG)}dtparam=i2c_arm=on\nenable_uart=1\nhdmi_group=2\n", sudo=True)

    with pytest.warns(RuntimeWarning, match="pi-1 has booted, but some of what") as caught:
        pi.reboot()

    (told,) = (str(each.message) for each in caught)
    assert f"{CMDLINE} cannot set console=tty1" in told
    assert f"{CMDLINE} must be one line: 'cgroup_enable=memory' is ignored" in told
    assert f"{CONFIG} has settings that nothing here follows" in told
    assert "'dtparam=i2c_arm=on, hdmi_group=2'." in told
    assert "enable_uart" not in told
    assert "panic=7" in arguments(pi)
    assert not {"console=tty1", "cgroup_enable=memory"} & set(arguments(pi))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pi.reboot()


@on_one_engine
def test_broken_line_does_not_brick_the_node(pi: Node) -> None:
    """It boots with its own arguments, and says what is wrong."""
    pi.write(CMDLINE, b"\x7fELF\x00\xff\xfe" * 400, sudo=True)

    with pytest.warns(RuntimeWarning, match="cmdline.txt must be printable ASCII"):
        pi.reboot()

    assert "root=/dev/vda" in arguments(pi)


@pytest.mark.qemu
def test_a_board_has_the_files_without_being_asked(settings: Settings) -> None:
    """It says by itself that it is a Pi; its reset gives it the first line again."""
    with Cluster.up(model="pi3", engine="local", settings=settings) as (pi,):
        pi.sudo(f"sed -i 's/$/ {K3S}/' {CMDLINE}")
        pi.reboot()
        assert arguments(pi)[-2:] == K3S.split()
        pi.reset()
        assert "cgroup_memory=1" not in arguments(pi)
        assert "cgroup_memory=1" not in pi.read(CMDLINE)
