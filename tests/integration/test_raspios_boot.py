"""Images of the structure of Raspberry Pi OS, from a URL to nodes that run a command: built, reached, forked.

The published ones cannot be had everywhere, so these are made of Debian's packages; see ``pi_images``.
"""

from __future__ import annotations

import hashlib
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, cut, file_server
from pi_files import Style
from pi_images import make

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.stock.accounts import Account
from pytest_pidoc.images.store.image import Image
from pytest_pidoc.lifecycle.provision import build_image
from pytest_pidoc.values.progress import Progress

pytestmark = pytest.mark.qemu

#: What an image with the user ada is asked for with.
OF_ADA = {"image_user": "ada", "image_password": "it's lovelace"}


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with file_server() as server:
        yield server


@pytest.fixture(scope="module")
def of_2019(server: FileServer, image: Image, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Serve an image as Raspbian Buster Lite is one, in a zip archive; return what ``image=`` takes."""
    folder = tmp_path_factory.mktemp("of-2019")
    disk = make(image, folder / "made", Style(user_at_first_boot=False, own_modules=False))
    packed = folder / "image.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(disk, "2019-09-26-raspbian-buster-lite.img")
    disk.unlink()
    url, sha256 = server.add("/raspbian-buster-lite.zip", packed.read_bytes())
    packed.unlink()
    return f"raspios:{url}#sha256={sha256}"


@pytest.fixture(scope="module")
def of_2022(server: FileServer, image: Image, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Serve an image as those since 2022 are, packed with xz, whose user is made by ``userconf.txt``."""
    disk = make(image, tmp_path_factory.mktemp("of-2022") / "made", Style(user_at_first_boot=True))
    content = lzma.compress(disk.read_bytes(), preset=0)
    disk.unlink()
    url, sha256 = server.add("/raspios-bookworm-arm64-lite.img.xz", content)
    return f"{url}#sha256={sha256}"


@pytest.fixture(scope="module")
def old(of_2019: str, server: FileServer, settings: Settings) -> Iterator[Cluster]:
    """Two nodes that are forked from the image of 2019; its download is cut off in the middle."""
    server.faults = [cut(20_000_000)]
    with Cluster.up(nodes=2, image=of_2019, engine="local", settings=settings) as cluster:
        yield cluster


def test_the_download_went_on_after_the_cut(old: Cluster, server: FileServer) -> None:
    """The second request asks for the rest."""
    assert "bytes=20000000-" in [request.get("Range") for request in server.requests]


def test_nodes_of_an_old_image_are_forked_and_themselves(old: Cluster) -> None:
    """SSH was off and there was no key: now both are there, and what must differ differs.

    The image's ``/etc/hosts`` names only ``raspberrypi``, and its name service has nobody else to ask.
    """
    assert [pi.timings.start for pi in old] == ["warm", "warm"]
    for command in ("hostname", "cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub"):
        first, second = (pi.run(command).stdout for pi in old)
        assert first != second
    assert [pi.run("whoami").stdout.strip() for pi in old] == ["pi", "pi"]
    asked = old[0].sudo("id -u")
    assert (asked.stdout, asked.stderr) == ("0\n", "")


def test_the_disk_has_grown_and_the_boot_partition_is_there(old: Cluster) -> None:
    """The root fills a power of two; fstab finds both partitions by the disk's id."""
    pi = old[0]

    assert pi.run("findmnt -no SOURCE /").stdout.strip() == "/dev/vda2"
    assert pi.run("findmnt -no SOURCE,FSTYPE /boot").stdout.split() == ["/dev/vda1", "vfat"]
    assert int(pi.run("cat /sys/class/block/vda/size").stdout) * 512 == 4 << 30
    assert int(pi.run("df -B1 --output=size / | tail -1").stdout) > 3.6 * (1 << 30)
    assert pi.run("ls /boot/kernel8.img").ok


def test_debians_kernel_runs_with_its_modules(old: Cluster) -> None:
    """The image had none for it."""
    pi = old[0]

    assert "arm64" in pi.run("uname -r").stdout
    assert pi.run("grep -w vfat /proc/modules").ok


def test_ssh_takes_no_password(old: Cluster) -> None:
    """Everybody knows the one that the user has; the rest of the server's configuration is the image's."""
    told = old[0].sudo("sshd -T").stdout

    assert "passwordauthentication no" in told
    assert "kbdinteractiveauthentication no" in told
    assert "usepam yes" in told


def test_the_address_is_the_images_own_business(old: Cluster) -> None:
    """It comes by DHCP, also in a fork."""
    for pi in old:
        assert "10.0.2.15/24" in pi.run("ip -4 address show eth0").stdout
        assert "dynamic" in pi.run("ip -4 address show eth0").stdout


def test_what_asks_for_addresses_leaves_the_lan_alone(old: Cluster) -> None:
    """Nobody would answer there."""
    pi = old[0]

    assert pi.run("cat /etc/NetworkManager/conf.d/pidoc.conf").stdout.splitlines() == [
        "[device-pidoc]",
        "match-device=interface-name:eth1",
        "managed=0",
    ]
    assert pi.run("tail -n 2 /etc/dhcpcd.conf").stdout.splitlines() == ["slaac private", "denyinterfaces eth1"]
    pi.run("ping -c 1 -W 5 pi-2")


def test_a_fork_is_as_quiet_as_the_image(old: Cluster) -> None:
    """No unit has failed on a machine with other devices than a Pi's."""
    assert old[0].run("systemctl is-system-running --wait", warn=True).stdout.strip() == "running"


def test_a_new_image_makes_its_user_and_its_ssh_server_by_itself(of_2022: str, settings: Settings) -> None:
    """What the two files in the boot partition ask for was done, and they are gone; a board boots it by itself.

    Kernel, initramfs and device tree are those of the boot partition, where the kernel is packed.
    """
    built = build_image(settings.spec({"image": of_2022, "model": "pi3"}), settings, Progress())

    assert built.manifest.partition == 2
    assert built.manifest.user == "pi"
    assert built.manifest.versions["os"].startswith("Debian GNU/Linux 12")
    (source,) = built.manifest.sources
    assert of_2022.endswith(source.sha256)
    assert {"kernel", "initrd", "dtb/bcm2837-rpi-3-b"} <= set(built.manifest.files)
    with Cluster.up(image=of_2022, model="pi3", engine="local", start="cold", settings=settings) as (pi,):
        assert pi.timings.start == "cold"
        assert "Raspberry Pi 3" in pi.run("cat /proc/device-tree/model").stdout
        assert pi.run("findmnt -no SOURCE /").stdout.strip() == "/dev/mmcblk0p2"
        assert pi.run("ls /boot/firmware").stdout.split() == [
            "bcm2710-rpi-3-b.dtb",
            "bcm2711-rpi-4-b.dtb",
            "cmdline.txt",
            "config.txt",
            "initramfs8",
            "kernel8.img",
        ]
        assert pi.run("ls /etc/ssh/ssh_host_*_key | wc -l").stdout.strip() == "3"
        assert pi.sudo("true").stderr == ""
        assert pi.run("systemctl is-enabled ssh userconfig", warn=True).stdout.split() == ["enabled", "disabled"]


@pytest.fixture(scope="module")
def of_2019_in_32_bits(server: FileServer, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Serve an image as Raspbian Buster Lite is one, for ARMv6, with a kernel for the boards.

    It is somebody's own: of the user ada, whose shells print all kinds of things, and who must give sudo a password.
    """
    donor = build_image(settings.spec({"model": "pi1"}), settings, Progress())
    password = Account("ada", OF_ADA["image_password"]).encrypted()
    style = Style(user_at_first_boot=False, user="ada", password=password, noisy=True)
    disk = make(donor, tmp_path_factory.mktemp("of-2019-armel") / "made", style)
    url, sha256 = server.add("/raspbian-buster-lite-armel.img.xz", lzma.compress(disk.read_bytes(), preset=0))
    disk.unlink()
    return f"raspios:{url}#sha256={sha256}"


@pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_pidocs_own_machine_runs_an_old_image(
    engine: str, of_2019_in_32_bits: str, versatile_kernel: dict[str, Path], settings: Settings
) -> None:
    """Two forks; one restarts, and has then booted the image's own disk with its name, its key and its files."""
    asked = {"model": "pi1-versatile", "image": of_2019_in_32_bits, "engine": engine, **OF_ADA}
    with Cluster.up(nodes=2, settings=settings, **asked, **versatile_kernel) as cluster:
        assert [pi.timings.start for pi in cluster] == ["warm", "warm"]
        assert {pi.run("uname -m; whoami; hostname").stdout for pi in cluster} == {
            "armv6l\nada\npi-1\n",
            "armv6l\nada\npi-2\n",
        }
        pi = cluster[0]
        assert pi.run("findmnt -no SOURCE /").stdout.strip() == "/dev/vda2"
        before = pi.run("cat /proc/sys/kernel/random/boot_id").stdout
        pi.run("echo kept > kept && sync")
        assert "setlocale" in pi.run("true").stderr  # the image's owner has not generated the locale
        assert "sudo:" not in pi.sudo("true").stderr
        pi.reboot()
        assert pi.run("cat /proc/sys/kernel/random/boot_id").stdout != before
        assert pi.run("hostname; cat kept").stdout == "pi-1\nkept\n"
        assert pi.run("systemctl is-system-running --wait", warn=True).stdout.strip() == "running"


def test_a_board_of_the_first_generation_boots_an_old_image(of_2019_in_32_bits: str, settings: Settings) -> None:
    """It gets the kernel for ARMv6, and the tree that the firmware gives the A+, which has none of its own name."""
    asked = {"model": "pi1", "image": of_2019_in_32_bits, "engine": "local", "start": "cold", **OF_ADA}
    with Cluster.up(settings=settings, **asked) as (pi,):
        assert pi.run("uname -m").stdout.strip() == "armv6l"
        assert pi.run("findmnt -no SOURCE /").stdout.strip() == "/dev/mmcblk0p2"
        assert pi.run("ls /boot/kernel.img").ok
        assert pi.run("systemctl is-active serial-getty@ttyAMA0").ok


def test_own_parts_on_an_image(image: Image, settings: Settings, tmp_path: Path) -> None:
    """A kernel by path, an initrd by URL, and arguments: a node boots from them, and the user's file stays as it is."""
    kernel = tmp_path / "my-kernel"
    kernel.write_bytes(image.file("kernel").read_bytes())
    kernel.chmod(0o400)
    before = kernel.stat()
    with file_server() as server:
        url, sha256 = server.add("/initrd", image.file("initrd").read_bytes())
        asked = {"engine": "local", "start": "cold", "kernel": kernel, "initrd": f"{url}#sha256={sha256}"}
        with Cluster.up(settings=settings, append="pidoc.mine=1", **asked) as (pi,):
            assert "pidoc.mine=1" in pi.run("cat /proc/cmdline").stdout.split()
            assert pi.run("uname -m").stdout.strip() == "aarch64"

    after = kernel.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    assert hashlib.sha256(kernel.read_bytes()).digest() == hashlib.sha256(image.file("kernel").read_bytes()).digest()
