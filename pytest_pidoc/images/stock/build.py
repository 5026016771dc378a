"""The build of the recipe ``raspios``: turns somebody else's disk image into one that nodes can start from."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.debian import archives
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.debian.packages import VIRT
from pytest_pidoc.images.debian.second_stage import FAST
from pytest_pidoc.images.fetch.source import FileSource
from pytest_pidoc.images.fetch.unpack import unpack
from pytest_pidoc.images.stock import accounts, boot_files, elf, ext4, partitions
from pytest_pidoc.images.stock.accounts import Account
from pytest_pidoc.images.stock.ext4 import Ext4
from pytest_pidoc.images.stock.fat import Fat
from pytest_pidoc.images.stock.first_boot import Patience, first_boot
from pytest_pidoc.images.stock.partitions import Partition
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import Image, ImageFile, Manifest, Source
from pytest_pidoc.machines import MIB, MODELS, Machine
from pytest_pidoc.values.progress import Progress

__all__ = ["LEAST", "Build", "Recipe", "boots_donor", "donor_of"]

LEAST = 4096 * MIB  # bytes of a disk: published images have almost no free space, and tests need some

LARGEST_TREE = 4 * MIB

ROOT = "root.ext4"
#: Two drivers take QEMU's network card on USB, and udev loads both: which is first decides whether it is eth0 or usb0.
#: This leaves the one that calls it eth0, as a Pi's own card is called. Kernels before 4.8 do not know the first
#: argument; udev looks at the second.
ONE_DRIVER = "module_blacklist=cdc_subset modprobe.blacklist=cdc_subset"
#: The arguments that firmware and ``cmdline.txt`` pass to the Pi's kernel: the second UART, memory for the driver of
#: the USB controller, and no sleep states. The last two switch off that driver's fast interrupts, with which QEMU's
#: network card receives nothing.
OWN_KERNEL = "8250.nr_uarts=1 coherent_pool=1M dwc_otg.lpm_enable=0 dwc_otg.fiq_enable=0 dwc_otg.fiq_fsm_enable=0"
BOOT_PARTITION = ("vfat", "nls_cp437", "nls_ascii", "nls_utf8")  # what mounts it


@dataclass(frozen=True)
class Recipe:
    """What the user chose: a disk image and its name.

    Attributes
    ----------
    name
        In the form of ``--pidoc-image``.
    source
        The disk image, compressed or not.
    account
        Who logs in to it.
    """

    name: str
    source: FileSource
    account: Account = accounts.DEFAULT

    def __str__(self) -> str:
        own = "" if self.account.name == accounts.DEFAULT.name else f" image_user={self.account.name}"
        return f"{self.name}{own}"


@dataclass(frozen=True)
class Donor:
    """The Debian image whose kernel boots another image: for the first time, and on a machine with virtio always."""

    recipe: debian.Recipe
    architecture: str

    @property
    def machine(self) -> Machine:
        """The model that it boots on."""
        return MODELS["pi3-virt" if self.architecture == "arm64" else "pi2-virt"]


def donor_of(machine: Machine) -> Donor:
    """Return whose kernel boots an image for that machine: one of its word size, on virtio devices."""
    return Donor(debian.Recipe(debian.RELEASES[0]), "arm64" if machine.architecture == "arm64" else "armhf")


def boots_donor(machine: Machine) -> bool:
    """Tell whether the machine boots Debian's kernel: it has virtio devices, and no kernel of its own for them."""
    return machine.disk.startswith("virtio") and machine.archive is None


class Build:
    """One build of one image in *directory*, which is empty at first and holds the finished files at the end.

    1. The image is fetched, checked, unpacked, and enlarged to a power of two with its root file system.
    2. The kernel comes from its boot partition, or from Debian for virtio devices, which the Pi's own kernel lacks.
    3. An emulated machine boots it once and enables SSH: see `pytest_pidoc.images.stock.first_boot`.
    """

    def __init__(
        self,
        cache: Cache,
        recipe: Recipe,
        machine: Machine,
        directory: Path,
        log: BuildLog,
        progress: Progress,
        patience: Patience,
    ) -> None:
        self.cache = cache
        self.recipe = recipe
        self.machine = machine
        self.directory = directory
        self.work = directory / "work"
        self.disk = self.work / "disk.raw"
        self.log = log
        self.progress = progress
        self.patience = patience

    def run(self) -> Manifest:
        """Build the image's files, and return their manifest."""
        self.work.mkdir()
        self.unpack()
        boot, root = self.find_partitions()
        number = root.number if root else 0
        root_fs = self.take_root(root)
        self.require_architecture(root_fs)
        accounts.require(root_fs, self.recipe.account, image=self.recipe.source.name)
        donor = donor_of(self.machine)
        debian_image = debian.build(self.cache, donor.recipe, donor.architecture, progress=self.progress)
        versions = self.versions(root_fs)
        modules = self.take_modules(debian_image)
        self.make_initrd(debian_image, modules)
        if boots_donor(self.machine):
            versions["kernel"] = debian_image.manifest.versions["kernel"]
            self.add_kernel(debian_image, modules, root_fs)
        elif boot is not None and self.machine.archive is None:
            versions["kernel"] = "the image's own"
            self.take_kernel(Fat(self.disk, boot, self.log))
        new_user = accounts.created_at_first_boot(root_fs)
        self.put_root_back(root)
        if new_user:
            self.ask_for_user(boot)
        self.log.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pidoc", "-f", self.directory / "id_ed25519"],
            what="making an SSH key",
            timeout=60,
        )
        first_boot(
            donor.machine,
            disk=self.disk,
            partition=number,
            kernel=debian_image.file("kernel"),
            initrd=self.work / "initrd",
            account=self.recipe.account,
            public_key=(self.directory / "id_ed25519.pub").read_text("ascii").strip(),
            new_user=new_user,
            log=self.log,
            progress=self.progress,
            patience=self.patience,
        )
        host_key = self.host_key(root)
        self.progress.step("writing the disk")
        self.log.run(
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.disk, self.directory / "disk.qcow2"],
            what="writing the disk",
            timeout=1800,
        )
        shutil.rmtree(self.work)
        return Manifest(
            recipe=str(self.recipe),
            architecture=self.machine.architecture,
            key="",  # the cache knows it
            files=dict(self.files()),
            user=self.recipe.account.name,
            host_keys=(host_key,),
            append=" ".join(["rootwait", FAST, *([ONE_DRIVER, OWN_KERNEL] if self.machine.plugs_network else [])]),
            partition=number,
            stock=True,
            password=self.recipe.account.password,
            versions=versions,
            sources=(Source(self.recipe.source.name, "", self.recipe.source.identify(self.cache)),),
        )

    def unpack(self) -> None:
        """Fetch the disk image, and unpack it."""
        packed = self.recipe.source.fetch(self.cache, self.progress)
        self.progress.step(f"unpacking {self.recipe.source.name}")
        unpack(packed, self.disk)

    def find_partitions(self) -> tuple[Partition | None, Partition | None]:
        """Return the boot partition and the root partition, each ``None`` if the disk does not have it."""
        found = partitions.read(self.disk)
        boot = next((each for each in found if each.is_fat), None)
        for each in found:
            if each.is_linux and ext4.is_ext4(self.disk, each.start):
                return boot, each
        if not found and ext4.is_ext4(self.disk):
            return None, None
        there = ", ".join(f"{each.number}: {each.type:#04x}" for each in found) or "no partition table"
        raise ImageError(
            f"{self.recipe.source.name} has no Linux partition with an ext4 file system (it has {there}).",
            tip="use a Raspberry Pi OS image, or a disk image with an ext4 root file system",
        )

    def take_root(self, root: Partition | None) -> Ext4:
        """Copy the root file system to a file of its own, and grow it to what the disk will hold.

        resize2fs knows files with an offset, but cuts the file off at the size of its file system.
        """
        self.progress.step("enlarging the disk and its root file system")
        size = max(LEAST, partitions.power_of_two(self.disk.stat().st_size))
        if root is None:
            self.disk.rename(self.work / ROOT)
            root_fs = Ext4(self.work / ROOT, self.log)
            root_fs.grow(size)
            return root_fs
        root_fs = Ext4(self.work / ROOT, self.log)
        _copy(self.disk, root.start, root_fs.path, 0, root.size)
        is_last = all(each.end <= root.end for each in partitions.read(self.disk))
        if is_last and root.number <= 4:  # a logical one lies in another, which would have to grow with it
            root_size = (size - root.start) // 4096 * 4096
            with self.disk.open("r+b") as stream:
                stream.truncate(root.start)  # all of it is rewritten
            partitions.enlarge(self.disk, root, root_size)
            root_fs.grow(root_size)
        with self.disk.open("r+b") as stream:
            stream.truncate(size)
        return root_fs

    def put_root_back(self, root: Partition | None) -> None:
        """Copy the root file system back into the disk that `take_root` has enlarged."""
        path = self.work / ROOT
        if root is None:
            path.rename(self.disk)
            return
        _copy(path, 0, self.disk, root.start, path.stat().st_size)
        path.unlink()

    def require_architecture(self, root_fs: Ext4) -> None:
        """Require that the image's programs run on the model's processor."""
        for name in ("/usr/bin/bash", "/bin/bash", "/usr/bin/dash", "/bin/dash", "/bin/busybox"):
            if content := root_fs.read(name):
                break
        else:
            raise ImageError(
                f"{self.recipe.source.name} has no shell in its root file system, so pidoc cannot use it.",
                tip="use a disk image with bash, dash or busybox",
            )
        program, model = elf.read(content), self.machine
        where = f"{self.recipe.source.name} contains programs for {program or 'an unknown processor'}"
        if program is None or program.architecture not in ("arm64", "armhf", "armel"):
            raise ImageError(f"{where}, but a Pi runs arm64, armhf or armel.", tip="use an image for Raspberry Pis")
        if (program.architecture == "arm64") != (model.architecture == "arm64"):
            why = (
                f"{model.name} is a 64-bit model, whose kernel would report aarch64 to 32-bit programs"
                if model.architecture == "arm64"
                else f"the processor of {model.name} is 32-bit"
            )
            fitting = [
                name
                for name, row in MODELS.items()
                if (row.architecture == "arm64") == (program.architecture == "arm64")
            ]
            raise ImageError(f"{where}, but {why}.", tip=f"use one of the models {', '.join(fitting)}")
        if model.cpu == "arm1176" and program.version > 6:
            raise ImageError(
                f"{where}, but the processor of {model.name} is ARMv6.",
                tip="use Raspberry Pi OS, which is compiled for ARMv6",
            )

    def take_modules(self, donor: Image) -> Path:
        """Take the modules of Debian's kernel out of its disk; return their directory."""
        disk = self.work / "donor.raw"
        self.log.run(
            ["qemu-img", "convert", "-O", "raw", donor.file("disk"), disk],
            what="unpacking Debian's disk",
            timeout=600,
        )
        Ext4(disk, self.log).copy_out("/usr/lib/modules", self.work)
        disk.unlink()
        (modules,) = (self.work / "modules").iterdir()
        return modules

    def make_initrd(self, donor: Image, modules: Path) -> None:
        """Make the initrd from Debian's; the kernel reads one archive after the other.

        The image configures its network card by itself. It has no modules for this kernel, so the initrd also loads
        those that mount its boot partition.
        """
        loaded = archives.module_closure(modules, [*VIRT, *BOOT_PARTITION])
        more = [
            archives.Entry("no-address"),
            archives.Entry("modules/order", "".join(f"{name}\n" for name in loaded).encode()),
            *(archives.Entry(f"modules/{name}", content) for name, content in loaded.items()),
        ]
        (self.work / "initrd").write_bytes(donor.file("initrd").read_bytes() + archives.cpio(more))

    def add_kernel(self, donor: Image, modules: Path, root_fs: Ext4) -> None:
        """Take Debian's kernel, and put its modules beside those of the Pi's."""
        self.progress.step("adding Debian's kernel, because the Pi's own has no virtio drivers")
        shutil.copyfile(donor.file("kernel"), self.directory / "kernel")
        shutil.copyfile(self.work / "initrd", self.directory / "initrd")
        if not root_fs.exists(f"/lib/modules/{modules.name}"):
            root_fs.copy_in(modules, "/lib/modules")

    def take_kernel(self, boot: Fat) -> None:
        """Copy what the Pi's firmware would boot out of the boot partition."""
        chosen = boot_files.choose(boot.text("config.txt", self.work), boot.names(), self.machine.cpu)
        boot.copy_out(chosen.kernel, self.directory / "kernel")
        boot_files.unpack_kernel(self.directory / "kernel")
        if chosen.initramfs:
            boot.copy_out(chosen.initramfs, self.directory / "initrd")
        for name in boot.names():
            stem = name.lower().removesuffix(".dtb")
            if stem == name.lower():
                continue
            tree = self.directory / f"{boot_files.TREES.get(stem, stem)}.dtb"
            boot.copy_out(name, tree)
            if tree.stat().st_size > LARGEST_TREE:
                raise ImageError(
                    f"{name} in the boot partition has {tree.stat().st_size} bytes; "
                    f"a device tree must have at most {LARGEST_TREE}.",
                    tip="remove that file from the image",
                )

    def ask_for_user(self, boot: Partition | None) -> None:
        """Let the image create the user as its documentation describes: with two files in the boot partition."""
        if boot is None:
            raise ImageError(
                f"{self.recipe.source.name} requires userconf.txt, but has no boot partition for it.",
                tip="use an image with a FAT boot partition, or one that already has a user with a password",
            )
        files = Fat(self.disk, boot, self.log)
        account = self.recipe.account
        for name, content in (("userconf.txt", f"{account.name}:{account.encrypted()}\n"), ("ssh", "")):
            (self.work / name).write_text(content, encoding="ascii")
            files.copy_in(self.work / name, name)

    def host_key(self, root: Partition | None) -> str:
        """Return the public SSH host key that the image has now."""
        root_fs = Ext4(self.disk, self.log, offset=root.start if root else 0)
        for kind in ("ed25519", "ecdsa", "rsa"):
            words = (root_fs.read(f"/etc/ssh/ssh_host_{kind}_key.pub") or b"").decode("ascii", "replace").split()
            if words:
                return " ".join(words[:2])
        raise self.log.error("The image has no SSH host key, although its SSH server has started.")

    def versions(self, root_fs: Ext4) -> dict[str, str]:
        """Return what the image says it is."""
        text = (root_fs.read("/usr/lib/os-release") or root_fs.read("/etc/os-release") or b"").decode(
            "utf-8", "replace"
        )
        names = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return {"os": "".join(filter(str.isprintable, names.get("PRETTY_NAME", "").strip('"')))[:100]}

    def files(self) -> Iterator[tuple[str, ImageFile]]:
        """Yield the finished files by their roles."""
        roles = {"disk.qcow2": "disk", "id_ed25519": "private_key", "id_ed25519.pub": "public_key"}
        for path in sorted(self.directory.iterdir()):
            role = f"dtb/{path.stem}" if path.suffix == ".dtb" else roles.get(path.name, path.name)
            yield role, image_file(path)


def _copy(source: Path, start: int, target: Path, to: int, size: int) -> None:
    """Copy *size* bytes from one file into another, which can exist already; holes stay holes."""
    with source.open("rb") as reader, target.open("r+b" if target.exists() else "wb") as writer:
        if to + size > os.fstat(writer.fileno()).st_size:
            writer.truncate(to + size)
        position, end = start, start + size
        while position < end:
            try:
                data = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            hole = min(end, os.lseek(reader.fileno(), data, os.SEEK_HOLE))
            reader.seek(data)
            writer.seek(to + data - start)
            position = hole
            left = hole - data
            while left > 0 and (chunk := reader.read(min(left, 1 << 20))):
                writer.write(chunk)
                left -= len(chunk)
