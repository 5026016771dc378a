"""Who logs in to somebody else's image: its user, looked up in the image before anything is booted."""

from __future__ import annotations

import ctypes
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.stock.ext4 import Ext4
from pytest_pidoc.settings.table import DEFAULT_IMAGE_PASSWORD, DEFAULT_IMAGE_USER
from pytest_pidoc.values.checks import listed, shown

__all__ = ["DEFAULT", "Account", "created_at_first_boot", "require"]

_NO_SHELLS = ("nologin", "false")
_NOBODY = 65534
_NEW_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")  # as userconf requires it
#: As ``openssl passwd -6 -salt pidoc raspberry`` prints it: Python has no such function since 3.13.
_DEFAULT_HASH = "$6$pidoc$xj7ipJN6L165MweJaRAym1eqbJ/MRJ.flfecgUsb7knqRx7H3JXIoEMAMyHnSpre8SzayC/13tIrOkflGADIj."
_SET = "set image_user=NAME and image_password=PASSWORD, or PIDOC_IMAGE_USER and PIDOC_IMAGE_PASSWORD"


@dataclass(frozen=True)
class Account:
    """The user who logs in on the console at the first boot, and over SSH from then on.

    Attributes
    ----------
    name
        The user's name.
    password
        For the console: SSH does not accept it.
    """

    name: str
    password: str = field(repr=False)

    @property
    def shown_password(self) -> str:
        """What a message can say of the password: nothing that only the user knows."""
        return f"the password {self.password}" if self.password == DEFAULT.password else "its image_password"

    def encrypted(self) -> str:
        """Return the password as ``/etc/shadow`` has it.

        Raises
        ------
        ImageError
            The host has no library that encrypts it.
        """
        if self.password == DEFAULT.password:
            return _DEFAULT_HASH
        if made := _crypt(self.password, f"$6${secrets.token_hex(8)}$"):
            return made
        raise ImageError(
            "Cannot encrypt image_password for userconf.txt: the host has no libcrypt.",
            tip="install libcrypt1 (Debian) or libxcrypt (Fedora), or leave image_password out",
        )


#: The user of Raspberry Pi OS before 2022; on newer images ``userconf.txt`` makes it.
DEFAULT = Account(DEFAULT_IMAGE_USER, DEFAULT_IMAGE_PASSWORD)


def created_at_first_boot(root_fs: Ext4) -> bool:
    """Tell whether the image makes its user at the first boot: Raspberry Pi OS since April 2022."""
    return root_fs.exists("/usr/lib/userconf-pi/userconf") and root_fs.exists(
        "/etc/systemd/system/multi-user.target.wants/userconfig.service"
    )


def require(root_fs: Ext4, account: Account, *, image: str) -> None:
    """Require that the account can log in on the serial console of an image.

    Parameters
    ----------
    root_fs
        The image's root file system.
    account
        Who is to log in.
    image
        The image's name, for the error.

    Raises
    ------
    ImageError
        There is no such user, or the user cannot log in with that password. The message says which users there are.
    """
    if created_at_first_boot(root_fs):
        if not _NEW_NAME.fullmatch(account.name):
            raise ImageError(
                f"{image} cannot make a user {shown(account.name)} at its first boot: a name must have at most 32 "
                "characters, only a to z, 0 to 9 and -, and must begin with a letter.",
                tip="set image_user to such a name, or leave it out",
            )
        return
    users = {fields[0]: fields for fields in _lines(root_fs, "/etc/passwd") if len(fields) >= 7}
    if not users:
        return  # it has another way to know its users, and the first boot will tell
    if account.name not in users:
        raise _unknown(users, account, image)
    fields = users[account.name]
    if fields[2] == "0":
        raise ImageError(
            f"The user {account.name} of {image} is root.", tip="set image_user to another user of the image"
        )
    if fields[6].rpartition("/")[2] in _NO_SHELLS:
        raise ImageError(
            f"The user {account.name} of {image} cannot log in: its shell is {fields[6]}.",
            tip="set image_user to another user of the image, or give this one a shell with chsh",
        )
    shadow = {line[0]: line for line in _lines(root_fs, "/etc/shadow") if len(line) >= 3}
    if account.name in shadow:
        _require_password(shadow[account.name], account, image)


def _unknown(users: dict[str, list[str]], account: Account, image: str) -> ImageError:
    """Return the error for a user who is not there, which names those who are."""
    people = [
        name
        for name, fields in users.items()
        if fields[2].isdecimal()
        and 1000 <= int(fields[2]) != _NOBODY
        and fields[6].rpartition("/")[2] not in _NO_SHELLS
    ]
    if not people:
        return ImageError(
            f"{image} has no user {account.name}, nor any other who could log in beside root.",
            tip="add a user with a password to the image: pi-gen has FIRST_USER_NAME and FIRST_USER_PASS for it",
        )
    return ImageError(
        f"{image} has no user {account.name}; its users are: {listed(people)}.",
        tip=_SET.replace("NAME", people[0]) if len(people) == 1 else _SET,
    )


def _require_password(shadow: list[str], account: Account, image: str) -> None:
    """Refuse a password that is not that of a line of ``/etc/shadow``, as far as the host can tell."""
    who, stored = f"The user {account.name} of {image}", shadow[1]
    if not stored:
        raise ImageError(f"{who} has no password.", tip=f"give {account.name} one in the image with passwd")
    if stored.startswith(("!", "*")):
        raise ImageError(
            f"{who} cannot log in with a password: it is locked.",
            tip=f"give {account.name} a password in the image with passwd, or set image_user to another user",
        )
    if shadow[2] == "0":
        raise ImageError(
            f"{who} must change the password at the first login, which pytest-pidoc does not.",
            tip=f"in the image, run chage -d -1 {account.name}",
        )
    found = _crypt(account.password, stored)
    if found and found != stored:
        raise ImageError(f"{who} does not have {account.shown_password}.", tip=_SET.replace("NAME", account.name))


def _lines(root_fs: Ext4, name: str) -> Iterator[list[str]]:
    for line in (root_fs.read(name) or b"").decode("utf-8", "replace").splitlines():
        yield line.split(":")


def _crypt(password: str, setting: str) -> str:
    """Return a password encrypted as another one is; nothing if the host's C library does not know that method."""
    for library in ("libcrypt.so.1", "libcrypt.so.2", None):  # of glibc's systems old and new, and of musl's
        try:
            crypt = ctypes.CDLL(library).crypt
        except (OSError, AttributeError):
            continue
        crypt.restype = ctypes.c_char_p
        crypt.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        made = (crypt(password.encode(), setting.encode()) or b"").decode("ascii", "replace")
        return made if made.startswith("$") else ""  # "*0" and "*1" mean that it failed
    return ""
