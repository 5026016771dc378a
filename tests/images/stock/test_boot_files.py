"""What the firmware would boot, from config.txt and the files that there are."""

import gzip
import os

import pytest

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.stock import boot_files
from pytest_pidoc.images.stock.boot_files import BootFiles, choose

#: Of Raspberry Pi OS Bookworm.
NAMES = [
    *("kernel.img", "kernel7.img", "kernel7l.img", "kernel8.img"),
    *("initramfs", "initramfs7", "initramfs7l", "initramfs8"),
    *("config.txt", "cmdline.txt", "bcm2710-rpi-3-b.dtb", "start.elf"),
]
CONFIG = """# For more options and information see
# http://rptl.io/configtxt
dtparam=audio=on
auto_initramfs=1
arm_64bit=1

[cm4]
otg_mode=1

[all]
"""


@pytest.mark.parametrize(
    ("cpu", "kernel", "initramfs"),
    [
        ("arm1176", "kernel.img", "initramfs"),
        ("cortex-a7", "kernel7.img", "initramfs7"),
        ("cortex-a53", "kernel8.img", "initramfs8"),
        ("cortex-a72", "kernel8.img", "initramfs8"),
    ],
)
def test_each_processor_boots_its_own_kernel(cpu, kernel, initramfs):
    """As the published config.txt has it, with the initramfs of the same name."""
    assert choose(CONFIG, NAMES, cpu) == BootFiles(kernel, initramfs)


def test_images_of_2019_have_no_initramfs():
    """Nor does config.txt speak of one."""
    names = ["kernel.img", "kernel7.img", "kernel8.img"]

    assert choose("dtparam=audio=on\n", names, "cortex-a53") == BootFiles("kernel8.img")


def test_an_initramfs_that_is_asked_for_and_not_there_is_none():
    """The firmware goes on without it."""
    assert choose("auto_initramfs=1", ["kernel8.img"], "cortex-a53") == BootFiles("kernel8.img")


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ("kernel=my.img", BootFiles("my.img")),
        ("kernel=my.img\ninitramfs my.gz followkernel", BootFiles("my.img", "my.gz")),
        ("[pi4]\nkernel=other.img\n[pi3]\nkernel=my.img", BootFiles("my.img")),
        ("[pi3]\nkernel=my.img\n[all]\nkernel=last.img", BootFiles("last.img")),
        ("[none]\nkernel=other.img", BootFiles("kernel8.img")),
        ("  kernel = my.img # mine", BootFiles("my.img")),
        ("os_prefix=new/\nkernel=my.img", BootFiles("new/my.img")),
        ("KERNEL8.IMG\n", BootFiles("kernel8.img")),
    ],
)
def test_config_txt_may_say_otherwise(config, chosen):
    """Sections for other boards do not count; the last line that counts is the one that holds."""
    assert choose(config, ["Kernel8.img", "my.img", "last.img", "new/my.img"], "cortex-a53") == chosen


def test_a_kernel_that_is_not_there_is_an_error_that_lists_what_is():
    """A 32-bit image for a 64-bit board, for example."""
    with pytest.raises(
        ImageError,
        match=r"(?s)not contain kernel8\.img, the kernel of a cortex-a53; it contains kernel\.img.*kernel=PATH",
    ):
        choose("", ["kernel.img"], "cortex-a53")


def test_a_packed_kernel_is_unpacked_and_another_stays_as_it_is(tmp_path):
    """64-bit kernels of Raspberry Pi OS are packed with gzip, whatever their names say."""
    kernel = os.urandom(100_000)
    (tmp_path / "packed").write_bytes(gzip.compress(kernel))
    (tmp_path / "plain").write_bytes(kernel)

    for name in ("packed", "plain"):
        boot_files.unpack_kernel(tmp_path / name)
        assert (tmp_path / name).read_bytes() == kernel


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-500], lambda data: data[:50] + b"x" * 50 + data[100:]], ids=["short", "changed"]
)
def test_a_damaged_kernel_is_an_image_error(tmp_path, damage):
    """It is found here and not by a board that stays silent."""
    (tmp_path / "kernel8.img").write_bytes(damage(gzip.compress(os.urandom(1000))))

    with pytest.raises(ImageError, match=r"Cannot unpack the kernel kernel8\.img"):
        boot_files.unpack_kernel(tmp_path / "kernel8.img")


def test_a_kernel_that_is_a_bomb_is_refused(tmp_path, monkeypatch):
    """No kernel is that large."""
    monkeypatch.setattr(boot_files, "LARGEST_KERNEL", 1 << 20)
    (tmp_path / "kernel8.img").write_bytes(gzip.compress(bytes(2 << 20)))

    with pytest.raises(ImageError, match="at most 1 MiB"):
        boot_files.unpack_kernel(tmp_path / "kernel8.img")
