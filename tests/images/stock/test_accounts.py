"""Who can log in to an image: looked up in its files, before anything is booted."""

import shutil
import subprocess

import pytest

from pytest_pidoc.errors import ImageError, SettingsError
from pytest_pidoc.images.stock import accounts
from pytest_pidoc.images.stock import recipe as raspios
from pytest_pidoc.images.stock.accounts import Account
from pytest_pidoc.images.stock.build import Recipe
from pytest_pidoc.images.stock.ext4 import Ext4
from pytest_pidoc.images.store.buildlog import BuildLog
from pytest_pidoc.images.store.cache import Cache
from pytest_pidoc.lifecycle import facts
from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings.spec import Settings
from tests.images.stock.test_recipe import MIB, PATH, PI3, PROGRAM_64, disk_of, ext4_of, own

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=PATH) for tool in ("debugfs", "mke2fs")), reason="e2fsprogs is not installed"
)

SYSTEM = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n"
NOBODY = "nobody:x:65534:65534::/nonexistent:/bin/sh\n"
ADA = "ada:x:1000:1000:Ada,,,:/home/ada:/bin/bash\n"
#: Of "engine": with SHA-512 as Debian encrypts until Buster, and with yescrypt as since then.
SHA = "$6$saltsalt$bv4G/qUI.hfpw2K2wFA7sxgxMwHcUN68xTAOxqrIKGJujoT2up/6d6r9syN/qGe1Hzv/gcSxOOiCiHiG1jCQ61"
YESCRYPT = "$y$j9T$saltsaltsalt$xNpfesXAOtr7oBKOsA3nmeWD0Qcus0mENwpCaiNIhHD"
ENGINE = Account("ada", "engine")


@pytest.fixture
def image(tmp_path):
    """Return a function that makes a root file system of these files, and gives it."""

    def image(passwd="", shadow="", **files):
        texts = {"etc_passwd": passwd, "etc_shadow": shadow, **files}
        (tmp_path / "root").write_bytes(ext4_of(tmp_path, 4 * MIB, **{k: v.encode() for k, v in texts.items()}))
        return Ext4(tmp_path / "root", BuildLog(tmp_path / "log"))

    return image


def require(root_fs, account=accounts.DEFAULT):
    accounts.require(root_fs, account, image="my.img")


def shadow(password, *, changed="19000"):
    return f"root:*:19000:0:99999:7:::\nada:{password}:{changed}:0:99999:7:::\n"


def test_a_user_who_is_not_there_is_told_with_those_who_are(image):
    """And with what to set, for a run or for one test."""
    with pytest.raises(ImageError) as error:
        require(image(SYSTEM + NOBODY + ADA))

    assert error.value.what == "my.img has no user pi; its users are: ada."
    assert "set image_user=ada and image_password=PASSWORD" in error.value.tip
    assert not error.value.evidence


def test_an_image_of_several_users_names_them_all(image):
    """Which is meant, only its owner knows."""
    with pytest.raises(ImageError, match=r"(?s)has no user pi; its users are: ada, bob\..*Try: set image_user=NAME"):
        require(image(SYSTEM + ADA + ADA.replace("ada", "bob").replace("1000", "1001")))


def test_an_image_without_users_says_how_to_add_one(image):
    """Nobody but root could log in, and services."""
    with pytest.raises(ImageError, match=r"(?s)nor any other who could log in beside root\..*FIRST_USER_NAME"):
        require(image(SYSTEM + NOBODY))


@pytest.mark.parametrize(
    ("passwd", "stored", "changed", "message"),
    [
        (ADA.replace("1000", "0", 1), SHA, "19000", "is root"),
        (ADA.replace("/bin/bash", "/usr/sbin/nologin"), SHA, "19000", "its shell is /usr/sbin/nologin"),
        (ADA, "!" + SHA, "19000", "it is locked"),
        (ADA, "*", "19000", "it is locked"),
        (ADA, "", "19000", "has no password"),
        (ADA, SHA, "0", "must change the password at the first login"),
        (ADA, SHA.replace("bv4", "bv5"), "19000", "does not have its image_password"),
        (ADA, YESCRYPT[:-1], "19000", "does not have its image_password"),
    ],
)
def test_a_user_who_cannot_log_in_is_refused(image, passwd, stored, changed, message):
    """Each reason by itself, with what to do, and without the password."""
    with pytest.raises(ImageError, match=message) as error:
        require(image(SYSTEM + passwd, shadow(stored, changed=changed)), ENGINE)

    assert error.value.tip
    assert "engine" not in str(error.value)


def test_the_published_password_is_named(image):
    """Everybody knows it."""
    with pytest.raises(ImageError, match="does not have the password raspberry"):
        require(image(SYSTEM + ADA, shadow(SHA)), Account("ada", "raspberry"))


def test_a_user_with_the_password_is_accepted(image):
    """In the encryption of Raspberry Pi OS until Buster, and in that of today."""
    require(image(SYSTEM + ADA, shadow(SHA)), ENGINE)
    require(image(SYSTEM + ADA, shadow(YESCRYPT)), ENGINE)
    require(image(SYSTEM + ADA.replace("ada", "pi"), shadow(accounts.DEFAULT.encrypted()).replace("ada", "pi")))


def test_what_the_host_cannot_tell_the_first_boot_will(image):
    """An encryption that the host does not know, users who are not in a file."""
    require(image(SYSTEM + ADA, shadow("$99$unknown$abc")), ENGINE)
    require(image(), ENGINE)


def test_an_image_that_makes_its_user_takes_any_name(image):
    """It renames the one that it has; but it has its rules."""
    root_fs = image(
        SYSTEM,
        **{
            "usr_lib_userconf-pi_userconf": "x",
            "etc_systemd_system_multi-user.target.wants_userconfig.service": "x",
        },
    )

    require(root_fs, ENGINE)
    with pytest.raises(ImageError, match=r"cannot make a user 'Ada\.L'.*only a to z"):
        require(root_fs, Account("Ada.L", "engine"))


def test_a_password_is_encrypted_for_userconf():
    """As OpenSSL does it; the published one always alike."""
    for account in (accounts.DEFAULT, ENGINE):
        made = account.encrypted()
        command = ["openssl", "passwd", "-6", "-salt", made.split("$")[2], "-stdin"]
        done = subprocess.run(command, input=account.password, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == made


def test_the_first_boot_is_not_reached_without_the_user(tmp_path):
    """Nothing is built for it, either; and the build's log is of no interest."""
    (tmp_path / "pi.img").write_bytes(
        disk_of((0x83, ext4_of(tmp_path, 16 * MIB, bin_bash=PROGRAM_64, etc_passwd=(SYSTEM + ADA).encode())))
    )

    with pytest.raises(ImageError, match="its users are: ada") as error:
        raspios.build(Cache(tmp_path / "cache"), own(tmp_path / "pi.img"), PI3)
    assert "debugfs" not in str(error.value)


def test_an_image_with_another_user_is_another_image(tmp_path):
    """And one with the usual user has the address that it always had."""
    (tmp_path / "pi.img").write_bytes(b"disk")
    cache, disk = Cache(tmp_path / "cache"), own(tmp_path / "pi.img")
    keys = [
        raspios.key(cache, Recipe(disk.name, disk.source, account), MODELS["pi3-virt"])
        for account in (accounts.DEFAULT, Account("ada", "raspberry"), Account("ada", "engine"))
    ]

    assert len(set(keys)) == 3
    assert keys[0] == raspios.key(cache, disk, MODELS["pi3-virt"])
    assert str(Recipe("my.img", disk.source, ENGINE)) == "my.img image_user=ada"


@pytest.mark.parametrize("name", ["image_user", "image_password"])
@pytest.mark.parametrize("image", ["debian:bookworm", "debian:bookworm,plain", "docker://example.org/pidoc:1"])
def test_an_image_that_has_its_user_gets_no_other(name, image):
    """Neither from a test nor from a run."""
    refused = f"{name} cannot be given with the image {image}, which has its user"

    with pytest.raises(SettingsError, match=refused):
        Settings(image=image).spec({name: "ada"})
    with pytest.raises(SettingsError, match=refused):
        Settings(**{"image": image, name: "ada"}).spec()


def test_a_test_on_another_image_than_the_run_is_not_refused():
    """The user of the run's image is none of its business."""
    run = Settings(image="./my.img", image_user="ada", image_password="engine")

    assert run.spec({"image": "debian:bookworm"}).image == "debian:bookworm"


def test_the_report_of_a_failed_test_does_not_tell_the_password(tmp_path):
    """CI systems publish it."""
    spec = Settings().spec({"image": "my.img", "image_user": "ada", "image_password": "engine"})

    assert facts.of_cluster(tmp_path, spec)["spec"]["image_password"] == "***"
