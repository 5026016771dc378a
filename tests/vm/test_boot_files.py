"""What is made of the two files that a Pi's firmware reads, whatever they contain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.machines import MODELS
from pytest_pidoc.vm import boot_files
from pytest_pidoc.vm.boot_files import Asked

OWN = "root=/dev/vda rw console=ttyAMA0,115200 net.ifnames=0 mitigations=off rootwait"
FIRST = f"{OWN}\n".encode()
#: As in Raspberry Pi OS: nothing of it is among the node's own arguments.
OF_A_PI = b"console=serial0,115200 console=tty1 root=PARTUUID=1f2e3d4c-02 rootfstype=ext4 rootwait quiet\n"


def asked(now: bytes | None, before: bytes | None = FIRST, architecture: str = "arm64") -> Asked:
    return boot_files.asked(now, before, own=OWN, architecture=architecture)


@pytest.mark.parametrize("before", [FIRST, OF_A_PI, b"", None])
def test_a_file_that_is_as_it_was_asks_for_nothing(before: bytes | None) -> None:
    """Neither are its arguments passed on, nor is it said that they are not."""
    assert asked(before, before) == Asked()


@pytest.mark.parametrize("before", [FIRST, OF_A_PI])
def test_added_arguments_are_passed_on(before: bytes) -> None:
    """In their order, wherever in the line they are, each once, and with their quotes."""
    line = b'cgroup_memory=1 %s dyndbg="file a.c +p" cgroup_memory=1 isolcpus=3\r\n' % before.strip()

    assert asked(line, before) == Asked('cgroup_memory=1 dyndbg="file a.c +p" isolcpus=3')


def test_arguments_that_an_image_had_can_be_taken_away() -> None:
    """The kernel here was not started with them in the first place."""
    assert asked(OF_A_PI.replace(b" quiet", b""), OF_A_PI) == Asked()


def test_own_arguments_cannot_be_taken_away_but_changed() -> None:
    """Of two with one name, the kernel takes the last."""
    taken, changed = asked(FIRST.replace(b" mitigations=off", b"")), asked(FIRST.replace(b"=off", b"=auto"))

    assert taken.arguments == ""
    assert "cannot take away mitigations=off" in taken.ignored[0]
    assert changed == Asked("mitigations=auto")


@pytest.mark.parametrize(
    "argument", ["console=tty1", "root=/dev/sda2", "init=/bin/sh", "systemd.unit=rescue.target", "single", "S", "--"]
)
def test_what_would_make_the_node_unreachable_is_refused(argument: str) -> None:
    """It is named, and the rest of the line counts."""
    found = asked(f"{OWN} {argument} loglevel=7\n".encode())

    assert found.arguments == "loglevel=7"
    assert f"cannot set {argument}:" in found.ignored[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b"", "has an empty first line"),
        (b"\n \n", "has an empty first line"),
        (bytes(range(1, 256)), "must be printable ASCII text"),
        (b"\x00" * 4096, "must be printable ASCII text"),
        ("rootwait späße=1".encode(), "must be printable ASCII text"),
        (FIRST.strip() + b" x=" + b"y" * 5000, "is too long"),
    ],
)
def test_a_broken_file_adds_nothing_and_is_named(content: bytes | None, said: str) -> None:
    """The node boots with its own arguments."""
    found = asked(content)

    assert found.arguments == ""
    assert said in found.ignored[0]


def test_second_line_is_ignored_and_named() -> None:
    """Playbooks that append a line make this mistake; on a Pi it has no effect, too."""
    found = asked(FIRST + b"cgroup_enable=memory\n")

    assert found == Asked(ignored=("must be one line: 'cgroup_enable=memory' is ignored",))


@pytest.mark.parametrize(("architecture", "fits"), [("arm64", True), ("armhf", False), ("armel", False)])
def test_longest_line_is_the_kernels(architecture: str, fits: bool) -> None:
    """It is half as long with 32 bits."""
    found = asked(FIRST.strip() + b" x=" + b"y" * 1500, architecture=architecture)

    assert bool(found.arguments) is fits
    assert bool(found.ignored) is not fits


@given(now=st.binary(max_size=300), before=st.none() | st.binary(max_size=300))
def test_no_content_is_an_error(now: bytes, before: bytes | None) -> None:
    """Whatever is passed on is one line of printable text."""
    found = asked(now, before)

    assert found.arguments == "" or (found.arguments.isascii() and found.arguments.isprintable())
    boot_files.ignored_settings(now, before, cpu="cortex-a53", architecture="arm64")


def ignored(added: str, model: str = "pi3-virt") -> tuple[str, ...]:
    row, before = MODELS[model], boot_files.CONFIG.encode()
    return boot_files.ignored_settings(before + added.encode(), before, cpu=row.cpu, architecture=row.architecture)


def test_first_settings_are_comments() -> None:
    """No line of the file that nodes get claims an effect."""
    assert boot_files.ignored_settings(boot_files.CONFIG.encode(), b"", cpu="arm1176", architecture="armel") == ()


def test_added_settings_are_named() -> None:
    """Each of several with one name; not comments, and not what is for other boards."""
    added = (
        "dtparam=i2c_arm=on\ndtparam=spi=on # both\ngpu_mem=16\n#arm_freq=900\n[pi4]\narm_boost=1\n[all]\nkernel=k\n"
    )

    assert ignored(added) == ("dtparam=i2c_arm=on", "dtparam=spi=on", "gpu_mem=16", "kernel=k")
    assert "arm_boost=1" in ignored(added, "pi4-virt")


def test_settings_that_are_true_anyway_are_not_named() -> None:
    """Every node has a serial console, and the word size of its model."""
    assert ignored("enable_uart=1\narm_64bit=1\n") == ()
    assert ignored("enable_uart=1\narm_64bit=0\n", "pi2-virt") == ()
    assert ignored("arm_64bit=0\n") == ("arm_64bit=0",)
    assert ignored("enable_uart=0\n") == ("enable_uart=0",)
