"""The debian recipe: names, content addresses, and archives made without root."""

import io
import shutil
import stat
import subprocess
import sys
import tarfile

import pytest

from pytest_pidoc.errors import ImageError, SettingsError
from pytest_pidoc.host import processes
from pytest_pidoc.images.debian import archives, second_stage
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.deadline import Deadline


@pytest.mark.parametrize("text", ["debian", "debian:bookworm"])
def test_debian_is_bookworm(text):
    """The family's name alone means its default release."""
    assert debian.recipe(text) == debian.Recipe("bookworm")
    assert str(debian.recipe(text)) == "debian:bookworm"


@pytest.mark.parametrize("text", ["raspios", "debian:buster", "debian:bookworm,fancy", "debian9", ""])
def test_an_unknown_recipe_names_those_that_exist(text):
    """A typing mistake is answered with what could be meant."""
    with pytest.raises(SettingsError, match="debian:bookworm"):
        debian.recipe(text)


def test_the_content_address_is_stable_and_differs_between_variants():
    """The same recipe always has the same key, and no two share one."""
    tuned, plain = debian.Recipe("bookworm"), debian.Recipe("bookworm", "plain")

    assert debian.key(tuned, "arm64") == debian.key(tuned, "arm64")
    assert len(debian.key(tuned, "arm64")) == 64
    assert debian.key(tuned, "arm64") != debian.key(plain, "arm64")


@pytest.mark.parametrize(
    "file", ["initrd/init", "tuned/setup", "tuned/left-out", "tuned/root/etc/ssh/sshd_config.d/pidoc.conf"]
)
def test_a_changed_guest_file_gives_a_new_image(tmp_path, monkeypatch, file):
    """One changed byte in a packaged guest file changes the key."""
    guest = shutil.copytree(debian.GUEST, tmp_path / "guest")
    before = debian.key(debian.Recipe("bookworm"), "arm64")
    monkeypatch.setattr(debian, "GUEST", guest)
    assert debian.key(debian.Recipe("bookworm"), "arm64") == before

    with (guest / file).open("ab") as stream:
        stream.write(b"#")

    assert debian.key(debian.Recipe("bookworm"), "arm64") != before


def test_an_unknown_architecture_is_refused_before_anything_is_built(tmp_path):
    """No download starts for an architecture that the recipe does not know."""
    with pytest.raises(SettingsError, match="sparc"):
        debian.build(Cache(tmp_path), debian.Recipe("bookworm"), "sparc")

    assert list(tmp_path.iterdir()) == []


def test_missing_tools_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    """Whoever lacks mmdebstrap is told what to type."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ImageError, match=r"(?s)mmdebstrap.*apt-get install .*mmdebstrap"):
        debian.build(Cache(tmp_path / "cache"), debian.Recipe("bookworm"), "arm64")


def test_every_folder_of_a_variant_has_its_files():
    """The packaged guest files are complete."""
    for variant in debian.VARIANTS.values():
        assert (debian.GUEST / variant.folder / "setup").is_file()
        assert (debian.GUEST / variant.folder / "root" / "etc").is_dir()


@pytest.mark.parametrize(
    "script",
    [
        "initrd/init",
        "build/second-stage",
        "build/extract.sh",
        "tuned/setup",
        "tuned/root/etc/pidoc/drivers",
        "plain/setup",
    ],
)
def test_the_guest_scripts_are_valid_shell(script):
    """A syntax error would only show after a minute of building."""
    subprocess.run(["sh", "-n", debian.GUEST / script], check=True)


def test_a_tar_archive_holds_files_of_root():
    """Whoever builds, the guest's files are root's."""
    data = archives.tar([archives.Entry("etc/a", b"text", stat.S_IFREG | 0o600)])

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.uid, member.gid, member.mode) == ("etc/a", 0, 0, 0o600)
        assert archive.extractfile(member).read() == b"text"


@pytest.mark.skipif(not shutil.which("cpio"), reason="cpio is not installed")
def test_cpio_reads_the_initrd_that_is_made_here(tmp_path):
    """The format is the one that the kernel and cpio know: files of odd sizes, directories, links, modes."""
    data = archives.initrd(init=b"#!/bin/sh\n", busybox=b"\x7fELF", modules={"b.ko": b"12345", "a.ko": b""})

    subprocess.run(["cpio", "-i", "--quiet"], input=data, cwd=tmp_path, check=True)

    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert (tmp_path / "bin" / "mount").resolve() == tmp_path / "bin" / "busybox"
    assert (tmp_path / "modules" / "order").read_text() == "b.ko\na.ko\n"
    assert (tmp_path / "modules" / "b.ko").read_bytes() == b"12345"
    assert (tmp_path / "proc").is_dir()


@pytest.fixture
def modules(tmp_path):
    """Return a kernel's directory with three modules and one that is built in."""
    (tmp_path / "fs").mkdir()
    for name, depends in (("ext4", "jbd2,crc16"), ("jbd2", ""), ("virtio-pci", "virtio_ring")):
        (tmp_path / "fs" / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0")
    (tmp_path / "modules.builtin").write_text("kernel/lib/crc16.ko\nkernel/drivers/virtio/virtio_ring.ko\n")
    return tmp_path


def test_modules_come_after_what_they_need(modules):
    """Insmod resolves nothing by itself; what is built in is not loaded, and - and _ are the same."""
    found = archives.module_closure(modules, ["virtio_pci", "ext4", "jbd2"])

    assert list(found) == ["virtio_pci.ko", "jbd2.ko", "ext4.ko"]


def test_a_missing_module_is_an_error(modules):
    """A root device without a driver is found out while building, not at the first boot."""
    with pytest.raises(ImageError, match="no module btrfs"):
        archives.module_closure(modules, ["btrfs"])


def test_a_command_that_fails_shows_its_last_lines_and_the_log(tmp_path):
    """The evidence is in the error, all of it in the log."""
    log = BuildLog(tmp_path / "log")

    with pytest.raises(ImageError) as error:
        log.run(["sh", "-c", "seq 100; echo no such mirror >&2; exit 3"], what="downloading", timeout=10)

    assert "Downloading failed: sh ended with status 3." in str(error.value)
    assert "no such mirror" in str(error.value)
    assert str(tmp_path / "log") in str(error.value)
    assert "\n1\n2\n" in (tmp_path / "log").read_text()


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path):
    """Nothing goes on in the background after an error."""
    log = BuildLog(tmp_path / "log")

    with pytest.raises(ImageError, match=r"more than 0\.3 s|more than 0 s"):
        log.run(["sh", "-c", "sleep 60 & echo $!; wait"], what="sleeping", timeout=0.3)

    assert processes.identify(int((tmp_path / "log").read_text().splitlines()[1])) is None


def test_a_command_of_a_killed_build_ends_with_its_children(tmp_path):
    """SIGKILL lets nobody clean up, so the kernel and a shell do."""
    script = """
import pathlib, sys
from pytest_pidoc.images.store.buildlog import BuildLog
log = BuildLog(pathlib.Path(sys.argv[1]))
log.run(["sh", "-c", "sleep 60 & echo $!; wait"], what="sleeping", timeout=60)
"""
    log, deadline = tmp_path / "log", Deadline(20)
    with subprocess.Popen([sys.executable, "-c", script, str(log)]) as process:
        while (not log.exists() or len(log.read_text().splitlines()) < 2) and not deadline.expired:
            deadline.pause()
        process.kill()

    child = int(log.read_text().splitlines()[1])
    while processes.identify(child) and not deadline.expired:
        deadline.pause()
    assert processes.identify(child) is None


@pytest.mark.skipif(not shutil.which("qemu-system-aarch64"), reason="qemu-system-aarch64 is not installed")
def test_a_second_stage_whose_machine_ends_at_once_is_an_error(tmp_path):
    """A kernel that is none: QEMU ends, and the error says at which step and shows its words."""
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(b"")

    with pytest.raises(ImageError, match=r"(?s)failed at the step 'boot'.*disk\.qcow2"):
        second_stage.finish(
            MODELS["pi3-virt"],
            disk=tmp_path / "disk.qcow2",
            kernel=tmp_path / "kernel",
            initrd=tmp_path / "initrd",
            log=BuildLog(tmp_path / "log"),
            progress=debian.Progress(),
        )


def test_modules_come_without_their_signatures(modules):
    """The kernel would hash each for longer than it takes to load it; the code itself stays as it is."""
    path = modules / "fs" / "jbd2.ko"
    plain = path.read_bytes()
    # struct module_signature: twelve bytes, the last four of them the length of the signature before it
    path.write_bytes(plain + b"S" * 300 + bytes(8) + (300).to_bytes(4, "big") + b"~Module signature appended~\n")

    assert archives.module_closure(modules, ["jbd2"]) == {"jbd2.ko": plain}
