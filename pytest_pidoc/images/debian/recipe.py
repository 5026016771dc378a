"""The ``debian`` recipe: a guest from Debian's own packages, made to boot fast and be quiet.

Three steps, on any host, with or without binfmt_misc and with or without root:

1. mmdebstrap downloads and unpacks the packages, and its hook makes the disk (``guest/build/extract.sh``);
2. the kernel and an initrd made here boot that disk in an emulated machine, which installs the packages and sets
   the guest up (``guest/build/second-stage``);
3. the disk is copied without the blocks that were only used during the build.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_pidoc.errors import ImageError, SettingsError
from pytest_pidoc.images.debian import archives, second_stage
from pytest_pidoc.images.debian.packages import (
    ARCHITECTURES,
    BUILDER,
    BUILDER_ARCHITECTURE,
    MODULES_WITHOUT,
    TOOLS,
    VARIANTS,
    VIRT,
    Architecture,
)
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache, image_file
from pytest_pidoc.images.store.image import Image, ImageFile, Manifest, Source
from pytest_pidoc.images.store.tools import require_tools, search_path
from pytest_pidoc.machines import MIB, MODELS
from pytest_pidoc.values.checks import shown
from pytest_pidoc.values.progress import Progress

__all__ = ["ARCHITECTURES", "TOOLS", "VARIANTS", "Recipe", "build", "key", "recipe"]

GUEST = Path(__file__).resolve().with_name("guest")

#: Bump when code changes what an image holds without a change of a file in ``guest/``.
VERSION = 1

DISK_SIZE = 4096 * MIB  # a power of two, as SD cards have

RELEASES = ("bookworm",)

_WITHOUT_SECURITY = """--setup-hook=sed -i '/-security /d' "$1/etc/apt/sources.list\""""


@dataclass(frozen=True)
class Recipe:
    """A ``debian`` recipe, taken apart: ``debian:RELEASE`` or, for comparisons, ``debian:RELEASE,VARIANT``."""

    release: str
    variant: str = ""

    def __str__(self) -> str:
        return f"debian:{self.release}" + (f",{self.variant}" if self.variant else "")


def recipe(text: str) -> Recipe:
    """Return the recipe that *text* names: ``debian``, ``debian:bookworm``, ``debian:bookworm,plain``.

    Raises
    ------
    SettingsError
        It is no recipe of this family, or names an unknown release or variant.
    """
    family, _, rest = text.partition(":")
    release, _, variant = rest.partition(",")
    parsed = Recipe(release or RELEASES[0], variant)
    if family != "debian" or parsed.release not in RELEASES or parsed.variant not in VARIANTS:
        known = ", ".join(
            f"debian:{release}{variant and ','}{variant}" for release in RELEASES for variant in sorted(VARIANTS)
        )
        raise SettingsError(f"{shown(text)} is not a known release or variant of Debian.", tip=f"use one of {known}")
    return parsed


def key(recipe: Recipe, architecture: str) -> str:
    """Return the content address: SHA-256 over the recipe and everything of this package that goes into the image.

    Raises
    ------
    SettingsError
        The recipe does not support that architecture.
    """
    variant = VARIANTS[recipe.variant]
    digest = hashlib.sha256()
    parts = (VERSION, recipe, architecture, _architecture(architecture), variant, MODULES_WITHOUT, DISK_SIZE)
    digest.update(repr(parts).encode())
    for folder in ("build", "initrd", variant.folder):
        for path in sorted((GUEST / folder).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                digest.update(f"{path.relative_to(GUEST)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def build(
    cache: Cache,
    recipe: Recipe,
    architecture: str,
    *,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> Image:
    """Return the image of *recipe* for *architecture*, building it if the cache does not have it.

    Raises
    ------
    SettingsError
        The recipe does not support that architecture.
    ImageError
        A tool is missing, a step failed (the message names the log), or the cache cannot be used.
    """
    progress = progress or Progress()

    def make(directory: Path, log: BuildLog) -> Manifest:
        return _Build(recipe, architecture, directory, log, progress).run()

    return cache.build(
        key(recipe, architecture),
        make,
        what=f"{recipe} for {architecture}",
        progress=progress,
        rebuild=rebuild,
    )


def _architecture(name: str) -> Architecture:
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise SettingsError(
            f"The recipe debian does not support the architecture {shown(name)}.",
            tip=f"use one of {', '.join(ARCHITECTURES)}",
        ) from None


class _Build:
    """One build of one image in *directory*, which is empty at first and holds the finished files at the end."""

    def __init__(self, recipe: Recipe, architecture: str, directory: Path, log: BuildLog, progress: Progress) -> None:
        self.recipe = recipe
        self.variant = VARIANTS[recipe.variant]
        self.name = architecture
        self.architecture = _architecture(architecture)
        self.machine = MODELS[BUILDER]
        self.directory = directory
        self.work = directory / "work"
        self.log = log
        self.progress = progress

    def run(self) -> Manifest:
        # An ordinary user's root is made in a user namespace, with the users that newuidmap grants.
        require_tools(TOOLS if os.geteuid() == 0 else {**TOOLS, "newuidmap": "uidmap"})
        self.work.mkdir()
        host_key = self.make_keys()
        self.bootstrap()
        files = self.take_kernel()
        kernel, initrd = self.make_builder()
        self.progress.step("starting an emulated machine to install the packages")
        second_stage.finish(
            self.machine,
            disk=self.work / "disk.qcow2",
            kernel=kernel,
            initrd=initrd,
            log=self.log,
            progress=self.progress,
        )
        self.progress.step("writing the disk")
        self.log.run(
            ["qemu-img", "convert", "-O", "qcow2", self.work / "disk.qcow2", self.directory / "disk.qcow2"],
            what="writing the disk",
            timeout=600,
        )
        sources = tuple(self.sources())
        versions = self.versions(sources)
        shutil.rmtree(self.work)
        return Manifest(
            recipe=str(self.recipe),
            architecture=self.name,
            key="",  # the cache knows it
            files={**files, **{role: self.file(name) for role, name in _FILES.items()}},
            user="pi",
            host_keys=(host_key,),
            append=self.variant.append,
            versions=versions,
            sources=sources,
        )

    def make_keys(self) -> str:
        """Make the user's and the host's SSH keys; return the host's public one."""
        for path in (self.directory / "id_ed25519", self.work / "ssh_host_ed25519_key"):
            self.log.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pidoc", "-f", path],
                what="making SSH keys",
                timeout=60,
            )
        return " ".join((self.work / "ssh_host_ed25519_key.pub").read_text("ascii").split()[:2])

    def bootstrap(self) -> None:
        """Download and unpack the packages; leave the disk and the kernel's package in the work directory."""
        (self.work / "guest.tar").write_bytes(archives.tar(self.guest_files()))
        self.progress.step(f"downloading and unpacking Debian {self.recipe.release} for {self.name}")
        try:
            self.run_mmdebstrap()
        except ImageError as error:
            # Security support ends years earlier for some architectures than for others.
            if not re.search(r"E: Failed to fetch \S+-security/", error.evidence):
                raise
            self.progress.step(
                f"Debian has no security updates of {self.recipe.release} for {self.name}: building without them"
            )
            self.run_mmdebstrap(_WITHOUT_SECURITY)
        self.log.run(
            [
                "tar",
                "--extract",
                "--file",
                self.work / "pidoc.tar",
                "--directory",
                self.work,
                "--no-same-owner",
            ],
            what="unpacking the disk",
            timeout=600,
        )
        (self.work / "pidoc.tar").unlink()

    def run_mmdebstrap(self, *more: str) -> None:
        """Run mmdebstrap, whose hook leaves ``pidoc.tar`` in the work directory."""
        self.log.run(
            [
                "mmdebstrap",
                "--variant=extract",
                f"--architectures={self.name}{f',{BUILDER_ARCHITECTURE}' if self.foreign else ''}",
                *("--skip=cleanup/apt", "--skip=chroot/mount", "--format=null"),
                # Merged /usr: the packages of this release expect it, and the variant "extract" does not make it.
                '--setup-hook=for name in bin lib sbin; do mkdir -p "$1/usr/$name"; ln -s "usr/$name" "$1/$name"; done',
                f"--extract-hook=tar-in {self.work / 'guest.tar'} /",
                '--extract-hook=eval "$PIDOC_EXTRACT"',
                f"--extract-hook=download /pidoc.tar {self.work / 'pidoc.tar'}",
                *more,
                self.recipe.release,
                "/dev/null",
            ],
            what="downloading and unpacking Debian's packages",
            timeout=3600,
            environment={
                "PATH": search_path(),
                "PIDOC_EXTRACT": (GUEST / "build" / "extract.sh").read_text("utf-8"),
                "PIDOC_ARCHITECTURE": self.name,
                "PIDOC_PACKAGES": " ".join(self.variant.packages),
                "PIDOC_KERNEL": self.architecture.kernel,
                "PIDOC_BUILDER_KERNEL": f"{ARCHITECTURES[BUILDER_ARCHITECTURE].kernel}:{BUILDER_ARCHITECTURE}",
                "PIDOC_MODULES_WITHOUT": " ".join(MODULES_WITHOUT),
                "PIDOC_DISK_SIZE": str(DISK_SIZE),
                # An ordinary user's unpacked root belongs to other users, who have no access to the cache.
                **({"TMPDIR": str(self.work)} if os.geteuid() == 0 else {}),
            },
        )

    def guest_files(self) -> Iterator[archives.Entry]:
        """Yield what goes into the guest beside its packages."""
        root = GUEST / self.variant.folder / "root"
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield archives.Entry(str(path.relative_to(root)), path.read_bytes())
        script, secret = stat.S_IFREG | 0o755, stat.S_IFREG | 0o600
        here = Path(second_stage.INIT).parent.relative_to("/")
        yield archives.Entry(f"{here}/second-stage", (GUEST / "build" / "second-stage").read_bytes(), script)
        for name in ("setup", "left-out"):
            if (path := GUEST / self.variant.folder / name).exists():
                yield archives.Entry(f"{here}/{name}", path.read_bytes())
        yield archives.Entry(f"{here}/authorized_keys", (self.directory / "id_ed25519.pub").read_bytes())
        for name, mode in (
            ("ssh_host_ed25519_key", secret),
            ("ssh_host_ed25519_key.pub", stat.S_IFREG | 0o644),
        ):
            yield archives.Entry(f"etc/ssh/{name}", (self.work / name).read_bytes(), mode)

    @property
    def foreign(self) -> bool:
        """Whether the kernel that finishes the guest is of another architecture than the guest."""
        return self.name != BUILDER_ARCHITECTURE

    def take_kernel(self) -> dict[str, ImageFile]:
        """Take the kernel and the boards' device trees from its package, and make the initrds; return all of them."""
        self.progress.step("making the initrd")
        unpacked = self.unpack(self.name)
        files = {}
        for role, modules in self.architecture.initrds.items():
            name = role.replace("/", "-")
            (self.directory / name).write_bytes(self.initrd(unpacked, modules))
            files[role] = self.file(name)
        shutil.copyfile(_kernel(unpacked), self.directory / "kernel")
        for tree in sorted(unpacked.glob("usr/lib/linux-image-*/**/bcm2*-rpi-*.dtb")):
            shutil.copyfile(tree, self.directory / tree.name)
            files[f"dtb/{tree.stem}"] = self.file(tree.name)
        return files

    def make_builder(self) -> tuple[Path, Path]:
        """Return the kernel and the initrd of the machine that finishes the guest."""
        if not self.foreign:
            return self.directory / "kernel", self.directory / "initrd"
        unpacked = self.unpack(BUILDER_ARCHITECTURE)
        initrd = self.work / "initrd"
        initrd.write_bytes(self.initrd(unpacked, VIRT))
        return _kernel(unpacked), initrd

    def unpack(self, architecture: str) -> Path:
        """Unpack the kernel of that architecture and the guest's busybox; return where."""
        target = self.work / f"unpacked-{architecture}"
        for pattern in (f"linux-image-*_{architecture}.deb", "busybox-static_*.deb"):
            (package,) = self.work.glob(pattern)
            self.log.run(["dpkg-deb", "--extract", package, target], what=f"unpacking {package.name}", timeout=600)
        return target

    def initrd(self, unpacked: Path, modules: Iterable[str]) -> bytes:
        """Make an initrd that loads *modules* of the unpacked kernel."""
        return archives.initrd(
            init=(GUEST / "initrd" / "init").read_bytes(),
            busybox=(unpacked / "bin" / "busybox").read_bytes(),
            modules=archives.module_closure(_modules(unpacked), modules),
        )

    def file(self, name: str) -> ImageFile:
        return image_file(self.directory / name)

    def sources(self) -> Iterator[Source]:
        """Yield the packages, from the names of their files: ``curl_7.88.1-10+deb12u12_arm64.deb``."""
        for line in sorted((self.work / "packages.sha256").read_text("utf-8").splitlines()):
            sha256, name = line.split(maxsplit=1)
            package, version, _ = urllib.parse.unquote(name).removesuffix(".deb").split("_")
            yield Source(package, version, sha256)

    def versions(self, sources: tuple[Source, ...]) -> dict[str, str]:
        """Return the versions of the guest's main parts and of the tools that made the image."""
        found = {source.name: source.version for source in sources}
        kernel = f"linux-image-{_modules(self.work / f'unpacked-{self.name}').name}"
        tools = {
            tool: subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
            for tool in ("mmdebstrap", self.machine.binary)
        }
        return {
            "kernel": f"{kernel} {found[kernel]}",
            **{name: found[name] for name in ("openssh-server", "systemd", "python3") if name in found},
            **tools,
        }


_FILES = {
    "kernel": "kernel",
    "disk": "disk.qcow2",
    "private_key": "id_ed25519",
    "public_key": "id_ed25519.pub",
}


def _kernel(unpacked: Path) -> Path:
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    return kernel


def _modules(unpacked: Path) -> Path:
    (modules,) = (unpacked / "lib" / "modules").iterdir()
    return modules
