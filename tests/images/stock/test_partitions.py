"""The partition table: read as the kernel reads it, and not believed where it cannot be true."""

import shutil
import struct
import subprocess

import pytest

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.stock import partitions
from pytest_pidoc.images.stock.partitions import SECTOR, Partition

MIB = 1 << 20
NO_SFDISK = not shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin:/bin")


def table(*entries, signature=b"\x55\xaa", flags=0):
    """Return a sector with these entries: type, first sector, number of sectors."""
    rows = [struct.pack("<B3xB3xII", flags, *entry) for entry in entries]
    return bytes(446) + b"".join(rows).ljust(64, b"\0") + signature


@pytest.fixture
def disk(tmp_path):
    """Return a function that makes a disk image of that size with these sectors, by their numbers."""

    def disk(*, size=64 * MIB, **sectors):
        path = tmp_path / "disk.img"
        with path.open("wb") as stream:
            for number, content in sectors.items():
                stream.seek(int(number.removeprefix("at")) * SECTOR)
                stream.write(content)
            stream.truncate(size)
        return path

    return disk


def test_the_partitions_of_raspberry_pi_os(disk):
    """FAT32 with the firmware's files, and the root file system behind it."""
    path = disk(at0=table((0x0C, 8192, 16384), (0x83, 24576, 32768)))

    boot, root = partitions.read(path)

    assert boot == Partition(1, 0x0C, 4 * MIB, 8 * MIB)
    assert boot.is_fat
    assert not boot.is_linux
    assert root == Partition(2, 0x83, 12 * MIB, 16 * MIB)
    assert root.is_linux
    assert root.end == 28 * MIB


@pytest.mark.skipif(NO_SFDISK, reason="sfdisk is not installed")
@pytest.mark.parametrize(
    "script",
    [
        "start=8192, size=16384, type=c\nstart=24576, size=32768, type=83",
        "start=2048, size=2048, type=c\nstart=8192, size=65536, type=5\nstart=10240, size=8192, type=83\n"
        "start=20480, size=8192, type=82\nstart=32768, size=2048, type=83",
    ],
)
def test_it_is_what_sfdisk_says(disk, script):
    """The same numbers, also of logical partitions in an extended one."""
    path = disk()
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    subprocess.run(["sfdisk", "-q", "--label", "dos", path], input=script, text=True, check=True, env=environment)
    lines = subprocess.run(["sfdisk", "-d", path], capture_output=True, text=True, check=True, env=environment).stdout
    said = []
    for line in lines.splitlines():
        if line.startswith(str(path)):
            name, _, rest = line.partition(" : ")
            values = dict(part.strip().split("=") for part in rest.replace("bootable", "").split(",") if "=" in part)
            said.append(
                Partition(
                    int(name.strip().removeprefix(str(path))),
                    int(values["type"].strip(), 16),
                    int(values["start"]) * SECTOR,
                    int(values["size"]) * SECTOR,
                )
            )

    assert list(partitions.read(path)) == [each for each in said if each.type != 0x05]


def test_a_disk_without_a_table_has_no_partitions(disk):
    """It may be one file system; that is for others to find out."""
    assert partitions.read(disk()) == ()


def test_a_file_system_that_looks_like_a_table_is_none(disk):
    """The boot sector of FAT ends with the same two bytes."""
    assert partitions.read(disk(at0=table((0x0C, 1, 1), flags=0x4D))) == ()


def test_a_file_of_a_few_bytes_has_no_partitions(disk):
    """A truncated download, for example."""
    assert partitions.read(disk(size=100)) == ()


@pytest.mark.parametrize(
    "sectors",
    [{"at0": table((0xEE, 1, 131071))}, {"at0": table((0x0C, 2048, 2048)), "at1": b"EFI PART"}],
)
def test_a_gpt_is_recognised_and_refused(disk, sectors):
    """With its protective MBR, or beside one that says something else."""
    with pytest.raises(ImageError, match="GPT"):
        partitions.read(disk(**sectors))


def test_a_partition_past_the_end_is_refused(disk):
    """An image that was cut off, for example."""
    with pytest.raises(
        ImageError, match=r"Partition 2 .* to 67109376, but must lie between byte 512 and the image's end at 67108864"
    ):
        partitions.read(disk(at0=table((0x0C, 2048, 2048), (0x83, 4096, 126977))))


def test_a_partition_over_the_table_is_refused(disk):
    """Nothing begins in the first sector."""
    with pytest.raises(ImageError, match="Partition 1"):
        partitions.read(disk(at0=table((0x83, 0, 4096))))


def test_partitions_that_overlap_are_refused(disk):
    """What is written to one would change the other."""
    with pytest.raises(ImageError, match=r"Partitions 1 and 2 of disk\.img overlap"):
        partitions.read(disk(at0=table((0x0C, 2048, 4096), (0x83, 6143, 4096))))


def test_extended_partitions_in_a_circle_are_refused(disk):
    """Whoever follows the chain must come to its end."""
    chain = table((0x83, 8, 8), (0x05, 0, 100))

    with pytest.raises(ImageError, match="form a loop"):
        partitions.read(disk(at0=table((0x05, 2048, 4096)), at2048=chain))


def test_an_extended_partition_without_a_table_is_refused(disk):
    """The chain leads to nothing."""
    with pytest.raises(ImageError, match="Cannot read the extended partition"):
        partitions.read(disk(at0=table((0x0F, 2048, 4096))))


def test_a_partition_is_made_larger_and_the_rest_stays(disk):
    """Nothing but four bytes changes: the disk's signature is what fstab knows it by."""
    path = disk(at0=table((0x0C, 8192, 16384), (0x83, 24576, 32768)))
    before = path.read_bytes()[:SECTOR]
    _, root = partitions.read(path)

    larger = partitions.enlarge(path, root, 48 * MIB)

    assert partitions.read(path)[1] == larger
    assert larger.size == 48 * MIB
    changed = [number for number, pair in enumerate(zip(before, path.read_bytes(), strict=False)) if pair[0] != pair[1]]
    assert set(changed) <= set(range(474, 478))


@pytest.mark.parametrize(("size", "power"), [(1, 1), (3, 4), (4096, 4096), (4097, 8192), (5 << 30, 8 << 30)])
def test_the_next_power_of_two(size, power):
    """QEMU refuses an SD card of another size."""
    assert partitions.power_of_two(size) == power
