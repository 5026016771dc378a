"""The models beside the default one: each boots, is saved, and goes on as the board that it is."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from file_server import file_server
from support import require_machine

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import MonitorError
from pytest_pidoc.machines import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_pidoc.node import Node
    from pytest_pidoc.settings.spec import Settings

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed"),
]

#: What `uname -m`, /proc/cpuinfo and /proc/device-tree/model say.
FACES = {
    "pi2-virt": ("armv7l", "0xc07", "linux,dummy-virt"),
    "pi4-virt": ("aarch64", "0xd08", "linux,dummy-virt"),
    "pi1-versatile": ("armv6l", "0xb76", "ARM Versatile PB"),
    "pi0": ("armv6l", "0xb76", "Raspberry Pi Zero"),
    "pi1": ("armv6l", "0xb76", "Raspberry Pi Model A+"),
    "pi2": ("armv7l", "0xc07", "Raspberry Pi 2 Model B"),
    "pi3": ("aarch64", "0xd03", "Raspberry Pi 3 Model B"),
    "pi4": ("aarch64", "0xd08", "Raspberry Pi 4 Model B"),
}
each_model = pytest.mark.parametrize("model", FACES, scope="module")


@pytest.fixture(scope="module")
def pi(model: str, settings: Settings, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A warm node of that model, as far as this host's QEMU has it, which the tests of the model share."""
    row = MODELS[model]
    require_machine(row)
    parts = request.getfixturevalue("versatile_kernel") if row.archive else {}
    with Cluster.up(nodes=1, model=model, engine="local", settings=settings, **parts) as cluster:
        yield cluster[0]


@each_model
def test_model_starts_warm(pi: Node, model: str) -> None:
    """It was forked from a saved machine, with all its cores and memory, and nothing in it has failed."""
    row = MODELS[model]

    assert pi.timings.start == "warm"
    assert int(pi.run("nproc").stdout) == row.cores
    memory = int(pi.run("grep MemTotal /proc/meminfo").stdout.split()[1]) * 1024
    assert 0.8 * row.memory < memory <= row.memory
    assert pi.run("systemctl --failed --no-legend").stdout == ""


@each_model
def test_model_says_what_it_is(pi: Node, model: str) -> None:
    """Architecture, processor and board are the model's."""
    machine, part, name = FACES[model]

    assert pi.run("uname -m").stdout.strip() == machine
    assert part in pi.run("grep -m 1 'CPU part' /proc/cpuinfo").stdout
    assert pi.run("tr -d '\\0' < /proc/device-tree/model").stdout.startswith(name)


@each_model
def test_board_has_its_revision_code(pi: Node, model: str) -> None:
    """Libraries look up the pins by it; only the boards' trees have it."""
    has_code = pi.run("test -e /proc/device-tree/system/linux,revision", warn=True).ok

    assert has_code == bool(MODELS[model].tree)
    if has_code:
        said = pi.run("od -A n -t x4 --endian=big /proc/device-tree/system/linux,revision")
        assert said.stdout.strip() == f"{MODELS[model].revision:08x}"


@each_model
def test_devices_of_a_board_have_their_drivers(pi: Node, model: str) -> None:
    """Temperature, I2C bus, PWM and random numbers are there without a modprobe, and pins without sudo."""
    if not MODELS[model].tree:
        assert pi.run("ls /dev/i2c-1", warn=True).failed
        return
    assert pi.run("systemctl is-active pidoc-drivers").stdout == "active\n"
    assert pi.run("cat /sys/class/watchdog/watchdog0/identity").stdout == "Software Watchdog\n"

    if model != "pi0":  # whose tree switches it off: a Zero has no audio jack
        assert pi.run("ls /sys/class/pwm").stdout.startswith("pwmchip0")
    for device in ("/dev/i2c-1", "/dev/gpiochip0"):
        assert pi.run(f"test -r {device} -a -w {device}").ok, device
    if model == "pi4":  # QEMU has neither of them there
        return
    assert 20_000 < int(pi.run("cat /sys/class/thermal/thermal_zone0/temp").stdout) < 26_000
    assert pi.sudo("head -c 16 /dev/hwrng | wc -c").stdout == "16\n"


@each_model
def test_disk_of_a_restored_model_works(pi: Node) -> None:
    """What was written is read from the disk again, not from memory."""
    pi.run("dd if=/dev/urandom of=data bs=64k count=32 conv=fsync status=none")
    before = pi.run("sha256sum data").stdout
    pi.sudo("sh -c 'echo 3 > /proc/sys/vm/drop_caches'")

    assert pi.run("sha256sum data").stdout == before
    assert "I/O error" not in pi.sudo("dmesg").stdout


@each_model
def test_clock_of_a_restored_model_goes_on(pi: Node) -> None:
    """Its time is ours, and its timers fire."""
    if pi.machine.icount:
        pi.reset()  # a clock that counts instructions falls behind on a busy host, from the fork on
    assert abs(float(pi.run("date +%s.%N").stdout) - time.time()) < (30 if pi.machine.icount else 5)
    began = time.monotonic()
    pi.run("sleep 2")
    assert time.monotonic() - began >= 1.8


@each_model
def test_network_of_a_restored_model_works(pi: Node) -> None:
    """The card has the node's address and a way out; over it a megabyte arrives as it was sent."""
    assert "10.0.2.15/24" in pi.run("ip -4 address show eth0").stdout
    assert "default via 10.0.2.2" in pi.run("ip route").stdout
    assert len(pi.run("head -c 1000000 /dev/zero | tr '\\0' x").stdout) == 1_000_000


def test_versatile_kernel_comes_out_of_its_archive(
    settings: Settings, versatile_kernel: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no kernel given, the model downloads its archive once, and boots what that has."""
    row = MODELS["pi1-versatile"]
    assert row.archive is not None
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("qemu-rpi-kernel-afe411f/kernel-qemu-4.14.79-stretch", b"another kernel")
        for role, name in (("kernel", row.archive.kernel), ("dtb", row.archive.dtb)):
            archive.writestr(f"qemu-rpi-kernel-afe411f/{name}", versatile_kernel[role].read_bytes())
    with file_server() as server:
        url, sha256 = server.add("/afe411f.zip", packed.getvalue())
        served = replace(row, archive=replace(row.archive, place=f"{url}#sha256={sha256}"))
        monkeypatch.setitem(MODELS, row.name, served)
        with Cluster.up(model=row.name, engine="local", start="cold", settings=settings) as cluster:
            said = cluster[0].run("uname -m; grep Hardware /proc/cpuinfo").stdout
            assert cluster[0].timings.start == "cold"
        assert len(server.requests) == 1

    assert said.split("\n", 1)[0] == "armv6l"
    assert "ARM-Versatile" in said


@pytest.mark.docker
def test_board_runs_in_a_container(settings: Settings) -> None:
    """SD card, second serial port, qtest and the plugged network card work there as well."""
    with Cluster.up(nodes=2, model="pi3", engine="docker", settings=settings) as cluster:
        assert [node.timings.start for node in cluster] == ["warm", "warm"]
        cluster.run("sudo -n touch /etc/here")
        assert [node.run("hostname").stdout for node in cluster] == ["pi-1\n", "pi-2\n"]
        cluster[1].reset()
        assert cluster[1].run("uname -m; ls /etc/here", warn=True).stdout == "aarch64\n"


@pytest.fixture(scope="module")
def pi1(settings: Settings) -> Iterator[Cluster]:
    """Two forks of a Raspberry Pi 1 that the tests of it share."""
    with Cluster.up(nodes=2, model="pi1", engine="local", settings=settings) as cluster:
        yield cluster


def test_forks_of_a_pi1_are_not_the_same(pi1: Cluster) -> None:
    """Whatever tells two machines apart does."""
    for what in ("/etc/hostname", "/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/sys/class/net/eth0/address"):
        first, second = (pi.run(f"cat {what}").stdout for pi in pi1)
        assert first != second


def test_pi1s_reach_each_other(pi1: Cluster) -> None:
    """Each has two cards on USB, and the second is in the LAN."""
    assert pi1[0].run("ping -n -c 3 -i 0.3 -W 5 pi-2").ok
    with pi1.partition([pi1[0]]):
        assert pi1[0].run("ping -n -q -c 2 -i 0.3 -W 1 pi-2", warn=True).failed


def test_a_pi1_reboots_with_its_network(pi1: Cluster) -> None:
    """The cards that were plugged in stay, under the same addresses, and QEMU finds them."""
    pi, stays = pi1[1], "cat /etc/machine-id /sys/class/net/eth?/address"
    before, boot = pi.run(stays).stdout, pi.run("cat /proc/sys/kernel/random/boot_id").stdout

    pi.reboot()

    assert pi.run(stays).stdout == before
    assert pi.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    pi.wait_until_succeeds("ping -n -c 1 -W 5 pi-1")


def test_a_pi1_is_put_back(pi1: Cluster) -> None:
    """A reset is another fork, with its own card plugged in."""
    pi = pi1[0]
    pi.run("touch gone-after-reset")

    pi.reset()

    assert pi.run("ls gone-after-reset", warn=True).failed
    assert pi.run("hostname").stdout.strip() == "pi-1"


@each_model
def test_picture_of_a_models_display(pi: Node, model: str, tmp_path: Path) -> None:
    """It is a PNG that can be taken while the guest runs; a machine without a display says so."""
    if not MODELS[model].has_display:
        with pytest.raises(MonitorError, match=f"model {model} has no display"):
            pi.screenshot(tmp_path / "out.png")
        return

    picture = pi.screenshot(tmp_path / "out.png").read_bytes()

    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack_from(">II", picture, 16)
    assert width >= 640
    assert height >= 480
    assert pi.run("true").ok


# Debian's own C library for armhf is for ARMv7, so these programs have none.
PROGRAM = r"""
static long call(long number, long a, long b, long c)
{
#ifdef __aarch64__
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
    register long r7 __asm__("r7") = number, r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
#endif
}

static volatile float quarter = 0.25f;
static volatile unsigned big = 0x12345678;

void _start(void)
{
    unsigned sum = big ^ 0x87654321; /* a constant that ARMv7 loads with movw and movt */
    char digit = (char)('0' + (int)(quarter * 28.0f)); /* 7, by hardware */
#ifdef __ARM_FEATURE_CRYPTO
    __asm__ volatile("aese v0.16b, v0.16b" : : : "v0");
#endif
    call(WRITE, 1, (long)&digit, sum == 0x95511559);
    call(EXIT, 0, 0, 0);
}
"""

ARMV6 = ("arm-linux-gnueabihf-gcc", "-marm", "-march=armv6+fp", "-mfloat-abi=hard", "-DWRITE=4", "-DEXIT=1")
ARMV7 = ("arm-linux-gnueabihf-gcc", "-marm", "-march=armv7-a+fp", "-mfloat-abi=hard", "-DWRITE=4", "-DEXIT=1")
AARCH64 = ("aarch64-linux-gnu-gcc", "-DWRITE=64", "-DEXIT=93")
STATIC = ("-static", "-fno-pic", "-no-pie")
DYNAMIC = ("-fpie", "-pie")  # so that the kernel asks for ld-linux-armhf.so.3, though there is nothing to load

COMPILERS = {
    "armv6": (*ARMV6, *STATIC),
    "armv7": (*ARMV7, *STATIC),
    "aarch64": (*AARCH64, *STATIC),
    "armv6-dynamic": (*ARMV6, *DYNAMIC),
    "aarch64-aes": (*AARCH64, "-march=armv8-a+crypto", *STATIC),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the program for each architecture."""
    directory = tmp_path_factory.mktemp("programs")
    source = directory / "program.c"
    source.write_text(PROGRAM)
    for name, (compiler, *options) in COMPILERS.items():
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        plain = ("-O2", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
        subprocess.run([compiler, *options, *plain, "-o", directory / name, source], check=True)
    return {name: directory / name for name in COMPILERS}


ILLEGAL_INSTRUCTION = (132, "Illegal instruction")
WRONG_FORMAT = (126, "Exec format error")
NO_LOADER = (127, "required file not found")

#: How the programs end on the processors, and with the guests, that do not run them.
FAILS = {
    "armv6l": {
        "armv7": ILLEGAL_INSTRUCTION,
        "aarch64": WRONG_FORMAT,
        "armv6-dynamic": NO_LOADER,  # the guest is Debian for armel
        "aarch64-aes": WRONG_FORMAT,
    },
    "armv7l": {"aarch64": WRONG_FORMAT, "aarch64-aes": WRONG_FORMAT},
    "aarch64": {"armv6-dynamic": NO_LOADER},  # and the real boards have no AES: there that one is illegal
}


@each_model
def test_program_runs_where_it_would(pi: Node, model: str, programs: dict[str, Path]) -> None:
    """A program for a later processor or another ABI fails on the board as on the real one, and is reported as such."""
    fails = FAILS[FACES[model][0]]
    for name, program in programs.items():
        pi.put(program, name)

        result = pi.run(f"./{name}", warn=True)

        status, said = fails.get(name, (0, ""))
        assert (name, result.exited, result.stdout) == (name, status, "" if status else "7")
        assert said in result.stderr
