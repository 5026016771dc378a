"""Damaged images: partition tables, file systems, kernels, programs, device trees and archives of any content."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import struct
import subprocess
import zipfile
from typing import TYPE_CHECKING

import fdt
import hypothesis
import pytest
from bad_inputs import almost, judged, mutated, remove, text, write
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.images.fetch.unpack import Limits, unpack
from pytest_pidoc.images.stock import boot_files, elf, partitions
from pytest_pidoc.images.stock.ext4 import Ext4, is_ext4
from pytest_pidoc.images.stock.fat import Fat
from pytest_pidoc.images.stock.partitions import Partition
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.tools import search_path
from pytest_pidoc.machines import MODELS
from pytest_pidoc.qemu import bootelf, devicetree
from pytest_pidoc.qemu.overlay import empty_overlay

if TYPE_CHECKING:
    from pathlib import Path

FAST, SLOW = (hypothesis.settings.get_profile(name) for name in ("soak", "soak-slow"))
MIB = 1 << 20


def table(*entries: tuple[int, int, int]) -> bytes:
    """Return a sector with a partition table: type, first sector, number of sectors."""
    rows = [struct.pack("<B3xB3xII", 0, *entry) for entry in entries]
    return bytes(446) + b"".join(rows).ljust(64, b"\0") + b"\x55\xaa"


#: A disk as Raspberry Pi OS has it, and with logical partitions: sectors 0 and 1, 8 and 9, 16 and 17.
DISK = b"".join(
    sector.ljust(512, b"\0")
    for sector in [
        *(table((0x0C, 64, 64), (0x05, 8, 512), (0x83, 1024, 512)), b""),
        *[b""] * 6,
        *(table((0x83, 200, 8), (0x05, 8, 100)), b""),
        *[b""] * 6,
        *(table((0x83, 300, 8), (0x05, 16, 100)), b""),
    ]
)


@FAST
@given(content=mutated(DISK, hot=(446, 510, 512, 8 * 512 + 446, 16 * 512 + 446)) | st.binary(max_size=1500))
def test_partition_table(tmp_path: Path, content: bytes) -> None:
    disk = tmp_path / "disk.img"
    write(disk, content.ljust(MIB, b"\0") if len(content) > 600 else content)
    with judged():
        found = partitions.read(disk)
        assert all(512 <= each.start < each.end <= disk.stat().st_size for each in found)
        for each in found:
            is_ext4(disk, each.start)


PROGRAM = (
    b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, 0, 0, 52, 0x400, 52, 32, 0, 40, 2, 0)
)
ATTRIBUTES = (
    b"A" + struct.pack("<I", 23) + b"aeabi\0\x01" + struct.pack("<I", 12) + b"\x05" + b"6\0" + b"\x06\x06\x20\x01"
)
PROGRAM += bytes(40) + struct.pack("<10I", 0, 0x70000003, 0, 0, 52 + 80, len(ATTRIBUTES), 0, 0, 1, 0) + ATTRIBUTES


@FAST
@given(mutated(PROGRAM, hot=(4, 18, 32, 46, 92, 132)) | st.binary(max_size=200))
def test_program(content: bytes) -> None:
    with judged():
        found = elf.read(content)
        assert found is None or str(found)


def tree() -> bytes:
    """Return a device tree with some nodes of a Raspberry Pi 4."""
    blob = fdt.FDT()
    blob.add_item(fdt.PropStrings("compatible", "raspberrypi,4-model-b", "brcm,bcm2711"), "/")
    for path in ("soc", "chosen", "soc/mmc@7e300000", "soc/mmc@7e300000/wifi@1", "soc/usb@7e980000", "emmc2bus"):
        parent, _, name = path.rpartition("/")
        blob.add_item(fdt.Node(name), f"/{parent}")
    blob.set_property("status", "disabled", "/soc/usb@7e980000")
    blob.add_item(fdt.Property("non-removable"), "/soc/mmc@7e300000")
    return bytes(blob.to_dtb(version=17))


@pytest.mark.parametrize("board", ["pi4", "pi0", "announced"])
@FAST
@given(content=mutated(tree(), hot=(0, 4, 8, 12, 32, 36, 56, 72)) | st.binary(max_size=200))
def test_device_tree(tmp_path: Path, board: str, content: bytes) -> None:
    path = tmp_path / "board.dtb"
    write(path, content)
    with judged():
        if board == "announced":
            devicetree.announcing(MODELS["pi4-virt"], content)
        else:
            devicetree.edited.__wrapped__(path, MODELS[board])


CONFIG = "# comment\n[all]\nkernel=kernel8.img\nauto_initramfs=1\n[pi3]\ninitramfs initramfs8 followkernel\n[pi4]\n"
NAMES = ["kernel8.img", "initramfs8", "config.txt", "KERNEL7.IMG", "new/kernel8.img"]


@FAST
@given(almost(CONFIG, "kernel=", "[", "initramfs ") | text, st.lists(st.sampled_from(NAMES) | text, max_size=4))
def test_what_the_firmware_would_boot(config: str, names: list[str]) -> None:
    for cpu in boot_files.CPUS:
        with judged():
            chosen = boot_files.choose(config, names, cpu)
            assert chosen.kernel.lower() in {name.lower() for name in names}


@FAST
@given(content=mutated(gzip.compress(b"a kernel" * 500, mtime=0)) | st.binary(max_size=200))
def test_packed_kernel(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kernel"
    write(path, content)
    with judged():
        boot_files.unpack_kernel(path)
        bootelf.can_hold(path)


def packed() -> dict[str, bytes]:
    """Return a disk image in each kind of archive."""
    content, archive = bytes(MIB) + b"a disk" * 100, io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("image/disk.img", content)
        file.writestr("info.txt", "text")
    return {"zip": archive.getvalue(), "xz": lzma.compress(content), "gz": gzip.compress(content, mtime=0)}


@pytest.mark.parametrize(("kind", "content"), packed().items())
@FAST
@given(data=st.data())
def test_archive(tmp_path: Path, kind: str, content: bytes, data: st.DataObject) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    hot = (0, 4, 8, 26, len(content) - 22, len(content) - 150) if kind == "zip" else (0, 4, 8, len(content) - 12)
    write(source, data.draw(mutated(content, hot=hot)))
    remove(target)
    with judged():
        unpack(source, target, limits=Limits(size=8 * MIB, memory=64 * MIB, room=0))
    remove(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


OVERLAY = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 30) + bytes(72)


@FAST
@given(content=mutated(OVERLAY, hot=(0, 20, 24)))
def test_disk_of_a_template(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "overlay.qcow2"
    write(path, content)
    with judged():
        assert empty_overlay(path)[:4] == b"QFI\xfb"


def made(command: list[str], path: Path, size: int) -> bytes:
    """Return an empty file system of that size."""
    if not shutil.which(command[0], path=search_path()):
        pytest.skip(f"{command[0]} is not installed")
    path.write_bytes(bytes(size))
    subprocess.run([*command, path], check=True, capture_output=True, env={"PATH": search_path()})
    return path.read_bytes()


@pytest.fixture(scope="module")
def fat(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("fat")
    made(["mkfs.vfat"], directory / "image", MIB)
    (directory / "config.txt").write_text("kernel=kernel8.img\n" * 50)
    disk = Fat(directory / "image", Partition(1, 0x0C, 0, MIB), BuildLog(directory / "log"))
    for name in ("config.txt", "a file with a long name.txt"):
        disk.copy_in(directory / "config.txt", name)
    return (directory / "image").read_bytes()


@SLOW
@given(data=st.data())
def test_boot_partition(tmp_path: Path, fat: bytes, data: st.DataObject) -> None:
    write(tmp_path / "image", data.draw(mutated(fat, hot=(0, 11, 24, 510, 512, 2048, 3072, 4096, 6144, 8192))))
    disk = Fat(tmp_path / "image", Partition(1, 0x0C, 0, MIB), BuildLog(tmp_path / "log"))
    with judged():
        disk.names()
        disk.text("config.txt", tmp_path)
        disk.copy_out("config.txt", tmp_path / "copy")
    remove(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "log"]


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made(["mke2fs", "-q", "-F", "-t", "ext4"], tmp_path_factory.mktemp("ext4") / "image", 2 * MIB)


@SLOW
@given(data=st.data())
def test_root_file_system(tmp_path: Path, ext4: bytes, data: st.DataObject) -> None:
    write(tmp_path / "image", data.draw(mutated(ext4, hot=(1024, 1048, 1080, 1120, 1200, 2048, 4096, 8192))))
    disk = Ext4(tmp_path / "image", BuildLog(tmp_path / "log"))
    with judged():
        disk.exists("/lost+found")
        disk.read("/etc/os-release")
        (tmp_path / "target").mkdir()
        disk.copy_out("/lost+found", tmp_path / "target")
        disk.grow(4 * MIB)
    remove(tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "log"]
