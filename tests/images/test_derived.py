"""Images derived from others: the user's own parts in the place of an image's."""

import hashlib
import io
import os
import shutil
import zipfile
from dataclasses import replace

import pytest
from file_server import file_server, status

from pytest_pidoc import Settings
from pytest_pidoc.errors import DownloadError, ImageError, SettingsError
from pytest_pidoc.images import derived, recipes
from pytest_pidoc.images.debian import recipe as debian
from pytest_pidoc.images.derived import derive
from pytest_pidoc.images.fetch.source import FileSource, Member
from pytest_pidoc.images.stock import recipe as raspios
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.machines import MODELS
from pytest_pidoc.values.progress import Progress
from tests.images.store.test_cache import KEY, make


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def base(cache):
    return cache.build(KEY, make, what="an image")


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "my-kernel"
    path.write_bytes(b"a kernel of mine")
    return FileSource(str(path))


def test_nothing_of_ones_own_is_the_image_itself(cache, base):
    """Without parts of one's own there is no copy: the image is the one that it would be derived from."""
    assert derive(cache, base, {}, "", progress=Progress()) is base


def test_a_kernel_is_put_in_place_and_the_rest_is_shared(cache, base, kernel):
    """The disk is not there twice; the image is one that the cache checks as any other."""
    image = derive(cache, base, {"kernel": kernel}, "", progress=Progress())

    assert image.file("kernel").read_bytes() == b"a kernel of mine"
    assert image.file("disk").samefile(base.file("disk"))
    assert image.manifest.recipe == "debian:bookworm kernel=my-kernel"
    assert image.manifest.sources[-1].sha256 == hashlib.sha256(b"a kernel of mine").hexdigest()
    assert image.manifest.key not in (base.manifest.key, "")
    assert cache.find(image.manifest.key) == image
    cache.verify(image)
    cache.verify(base)


def test_the_address_is_that_of_all_parts(cache, base, kernel, tmp_path):
    """Another content, another role or other arguments make another image; the same make the same."""
    images = {
        derive(cache, base, parts, append, progress=Progress()).manifest.key
        for parts, append in (
            ({"kernel": kernel}, ""),
            ({"kernel": kernel}, ""),
            ({"initrd": kernel}, ""),
            ({"kernel": kernel, "initrd": None}, ""),
            ({"kernel": kernel}, "quiet"),
            ({}, "quiet"),
        )
    }
    (tmp_path / "my-kernel").write_bytes(b"another kernel")
    images.add(derive(cache, base, {"kernel": kernel}, "", progress=Progress()).manifest.key)

    assert len(images) == 6


def test_arguments_come_behind_those_of_the_image(cache, base):
    """The kernel takes the last one of a name."""
    once = derive(cache, base, {}, "quiet", progress=Progress())
    twice = derive(cache, once, {}, "maxcpus=1", progress=Progress())

    assert once.manifest.append == "quiet"
    assert twice.manifest.append == "quiet maxcpus=1"


def test_a_part_may_be_left_out(cache, base, kernel):
    """A kernel with all drivers in it needs no initrd."""
    with_one = derive(cache, base, {"initrd": kernel}, "", progress=Progress())

    assert "initrd" not in derive(cache, with_one, {"initrd": None}, "", progress=Progress()).manifest.files


def test_an_image_outlives_the_one_that_it_was_derived_from(cache, base, kernel):
    """When the first image is removed, the files that both have stay, and the derived image is still valid."""
    image = derive(cache, base, {"kernel": kernel}, "", progress=Progress())

    cache.remove(base.path)

    cache.verify(image)


def test_a_file_system_without_hard_links_gets_copies(cache, base, kernel, monkeypatch):
    """It takes more room, and is as good."""

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    image = derive(cache, base, {"kernel": kernel}, "", progress=Progress())

    assert not image.file("disk").samefile(base.file("disk"))
    cache.verify(image)


def test_the_users_file_stays_as_it_is(cache, base, kernel, tmp_path):
    """It is copied, and so may change or go later."""
    before = (tmp_path / "my-kernel").stat()
    image = derive(cache, base, {"kernel": kernel}, "", progress=Progress())
    after = (tmp_path / "my-kernel").stat()

    assert (before.st_mtime_ns, before.st_mode, before.st_nlink) == (after.st_mtime_ns, after.st_mode, after.st_nlink)
    (tmp_path / "my-kernel").unlink()
    cache.verify(image)


def test_a_missing_part_is_an_image_error(cache, base, tmp_path):
    """The error names the file that does not exist, and nothing of the attempt is left in the cache."""
    with pytest.raises(ImageError, match="nowhere"):
        derive(cache, base, {"kernel": FileSource(str(tmp_path / "nowhere"))}, "", progress=Progress())
    assert [path.name for path in (cache.root / "images").iterdir()] == [KEY]


@pytest.fixture
def archive():
    """Return a zip archive of two kernels and a device tree, all in one folder."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as members:
        for name in ("README.md", "kernel-4.19", "kernel-4.14", "board.dtb"):
            members.writestr(f"kernels-afe411f/{name}", f"content of {name}")
    return packed.getvalue()


def test_a_part_may_be_a_file_in_an_archive(cache, base, archive, tmp_path):
    """It is told from others by the archive's checksum and its name; its own is in the manifest."""
    path = tmp_path / "kernels.zip"
    path.write_bytes(archive)
    images = [
        derive(cache, base, {"kernel": Member(FileSource(str(path)), name)}, "", progress=Progress())
        for name in ("kernel-4.19", "kernel-4.14", "kernel-4.19")
    ]

    assert [image.file("kernel").read_text() for image in images[:2]] == [
        "content of kernel-4.19",
        "content of kernel-4.14",
    ]
    assert images[0] == images[2] != images[1]
    assert images[0].manifest.sources[-1].name == "kernel-4.19"
    assert images[0].manifest.sources[-1].sha256 == hashlib.sha256(b"content of kernel-4.19").hexdigest()


def test_an_archive_without_that_file_is_an_image_error(cache, base, archive, tmp_path):
    """What was wanted and what is there; nothing is left."""
    path = tmp_path / "kernels.zip"
    path.write_bytes(archive)

    with pytest.raises(ImageError, match=r"exactly one file kernel-9.*none"):
        derive(cache, base, {"kernel": Member(FileSource(str(path)), "kernel-9")}, "", progress=Progress())
    assert [path.name for path in (cache.root / "images").iterdir()] == [KEY]


@pytest.fixture
def served(monkeypatch, archive):
    """Let pi1-versatile have its kernel from a server here."""
    with file_server() as server:
        url, sha256 = server.add("/kernels.zip", archive)
        row = MODELS["pi1-versatile"]
        here = replace(row.archive, place=f"{url}#sha256={sha256}", kernel="kernel-4.19", dtb="board.dtb")
        monkeypatch.setitem(MODELS, row.name, replace(row, archive=here))
        yield server


@pytest.fixture
def built(monkeypatch, base):
    """Let recipes make the small image, and note for which they were asked."""
    asked = []
    monkeypatch.setattr(debian, "build", lambda cache, recipe, *_, **__: asked.append(str(recipe)) or base)
    monkeypatch.setattr(raspios, "build", lambda cache, recipe, *_, **__: asked.append(str(recipe)) or base)
    return asked


def build(cache, **asked):
    return recipes.build(cache, Settings().spec(asked), progress=Progress())


def test_a_spec_names_parts_by_path_or_url(cache, built, kernel):
    """A path, a URL with its checksum, and the word for none."""
    with file_server() as server:
        url, sha256 = server.add("/initrd.img", b"an initrd")
        image = build(cache, kernel=kernel.place, initrd=f"{url}#sha256={sha256}", append="quiet")
        without = build(cache, kernel=kernel.place, initrd="none")

    assert image.file("kernel").read_bytes() == b"a kernel of mine"
    assert image.file("initrd").read_bytes() == b"an initrd"
    assert image.manifest.append == "quiet"
    assert "initrd" not in without.manifest.files
    assert built == ["debian:bookworm"] * 2


@pytest.mark.parametrize(
    ("image", "recipe"),
    [
        ("debian", "debian:bookworm"),
        ("raspios:buster", "raspios:buster"),
        (__file__, __file__),
        (f"https://example.org/pi.img#sha256={'0' * 64}", f"https://example.org/pi.img#sha256={'0' * 64}"),
    ],
)
def test_each_name_finds_its_recipe(cache, built, kernel, image, recipe):
    """A family's name, a path, a URL."""
    build(cache, image=image, kernel=kernel.place)

    assert built == [recipe]


def test_a_published_image_is_for_the_engine_docker(cache):
    """The error says which engine runs it."""
    with pytest.raises(SettingsError, match=r"only the engine docker can run.*\nTry: .*--pidoc-engine=docker"):
        build(cache, image="docker://example.org/pidoc:1")


@pytest.mark.parametrize("image", ["potato", "pi.img"])
def test_what_nobody_knows_is_answered_with_what_there_is(cache, image):
    """A name that is none."""
    with pytest.raises(SettingsError, match=r"(?s)is not a known image.*raspios.*docker://"):
        build(cache, image=image)


def test_a_model_with_a_kernel_of_its_own_gets_it_on_every_image(cache, built, served):
    """The archive is fetched once; the image's own kernel and initrd are for other machines."""
    image = build(cache, model="pi1-versatile")
    build(cache, model="pi1-versatile", image="raspios:buster")

    assert image.file("kernel").read_text() == "content of kernel-4.19"
    assert image.file("dtb").read_text() == "content of board.dtb"
    assert "initrd" not in image.manifest.files
    assert len(served.requests) == 1


def test_the_users_kernel_goes_before_that_of_the_model(cache, built, served, kernel):
    """With both parts given nothing is downloaded, and an initrd is there if it was asked for."""
    image = build(cache, model="pi1-versatile", kernel=kernel.place, dtb=kernel.place)
    with_one = build(cache, model="pi1-versatile", kernel=kernel.place, dtb=kernel.place, initrd=kernel.place)

    assert image.file("kernel").read_bytes() == b"a kernel of mine"
    assert "initrd" not in image.manifest.files
    assert with_one.file("initrd").read_bytes() == b"a kernel of mine"
    assert served.requests == []


def test_a_kernel_that_cannot_be_had_is_answered_with_what_to_give(cache, built, served):
    """Not everybody may reach that site; and no image is built in vain."""
    served.faults = [status(404)]

    with pytest.raises(DownloadError, match=r"(?s)kernels.zip.*404.*kernel=PATH and dtb=PATH.*versatilepb"):
        build(cache, model="pi1-versatile")
    assert built == []


def test_a_part_that_is_not_there_is_said_before_an_image_is_built(cache, built, tmp_path):
    """A missing file is an error before the minutes that building the image takes, and names its setting."""
    for role in ("kernel", "initrd", "dtb"):
        with pytest.raises(SettingsError, match=rf"^{role}='.*': there is no file /.*/no-kernel .*\nTry: set {role} "):
            build(cache, **{role: str(tmp_path / "no-kernel")})
    with pytest.raises(ImageError, match="is not a regular file"):
        build(cache, kernel=str(tmp_path))
    assert built == []


def test_what_was_downloaded_for_an_image_is_not_wanted_again(cache, base, built, served, monkeypatch):
    """The image with its parts is in the cache, so the archive may be gone from there, and the site as well."""
    monkeypatch.setattr(debian, "key", lambda *_: KEY)
    first = build(cache, model="pi1-versatile")
    shutil.rmtree(cache.root / "downloads")

    assert build(cache, model="pi1-versatile") == first
    assert len(served.requests) == 1


def test_an_image_without_a_kernel_needs_one(cache, built):
    """A disk without a boot partition on a board."""
    with pytest.raises(ImageError, match=r"(?s)pi3-virt has no kernel to boot.*kernel=PATH"):
        build(cache)


def test_a_bad_part_is_named(cache, built):
    """The error says which of the parts lacks its SHA-256."""
    with pytest.raises(SettingsError, match=r"dtb: .* requires a SHA-256"):
        build(cache, dtb="https://example.org/pi.dtb")


@pytest.mark.parametrize("role", [*derived.ROLES, "append"])
def test_a_published_image_takes_no_other_parts(role):
    """It is inside of a container image: that is said before anybody asks for the daemon."""
    with pytest.raises(SettingsError, match=f"{role} cannot be given with the published image"):
        Settings().spec({"image": "docker://example.org/pidoc:1", role: "/a/file", "engine": "docker"})


def test_roles_are_settings():
    """Each part has its option, and its place in a cluster's description."""
    for role in derived.ROLES:
        assert hasattr(Settings().spec(), role)
