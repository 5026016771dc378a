"""A node's identity: everything that must differ between two nodes that share a saved machine or an image."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import PidocError
from pytest_pidoc.host import documents

__all__ = ["FILE", "HOST_KEY", "SEED_SIZE", "Identity", "LanPlace", "make_key"]

FILE = "identity.json"  # in a node's directory

HOST_KEY = "ssh_host_ed25519_key"
#: Address, netmask and gateway of a guest in QEMU's user network.
USER_NETWORK = ("10.0.2.15", "255.255.255.0", "10.0.2.2")
SEED_SIZE = 64  # bytes: twice what the kernel's generator holds


@dataclass(frozen=True)
class LanPlace:
    """A node's place in the LAN of its cluster.

    Attributes
    ----------
    mac_address
        The address of the second network card: ``52:54:00:xx:xx:xx``.
    address
        ``192.168.77.1/24``.
    hosts
        The addresses of all nodes by their names.
    """

    mac_address: str
    address: str
    hosts: Mapping[str, str]

    def settings(self) -> tuple[tuple[Any, ...], ...]:
        """Return the part of `Identity.request` about the LAN."""
        interface = IPv4Interface(self.address)
        hosts = "".join(f"{address}\t{name}\n" for name, address in self.hosts.items())
        return (
            ("hosts", hosts.encode()),
            (
                "lan",
                bytes.fromhex(self.mac_address.replace(":", "")),
                interface.ip.packed,
                interface.netmask.packed,
            ),
        )


@dataclass(frozen=True)
class Identity:
    """The names, ids and keys of one node.

    Attributes
    ----------
    host_name
        ``pi-1``; empty if the guest keeps the image's.
    machine_id
        32 hex digits, as in ``/etc/machine-id``.
    boot_id
        A UUID, as in ``/proc/sys/kernel/random/boot_id``.
    mac_address
        The address of the first network card: ``52:54:00:xx:xx:xx``.
    random_seed
        64 bytes from the host's random number generator, in hex.
    host_keys
        The SSH server's keys by file name, each with its private and its public part in OpenSSH's formats.
    lan
        Its place in the cluster's LAN; ``None`` if the cluster has no LAN.
    """

    host_name: str
    machine_id: str
    boot_id: str
    mac_address: str
    random_seed: str
    host_keys: Mapping[str, tuple[str, str]]
    lan: LanPlace | None = None

    @classmethod
    def new(cls, host_name: str, mac_address: str, lan: LanPlace | None = None) -> Identity:
        """Make an identity that no other node has."""
        return cls(
            host_name=host_name,
            machine_id=uuid.uuid4().hex,
            boot_id=str(uuid.uuid4()),
            mac_address=mac_address,
            random_seed=os.urandom(SEED_SIZE).hex(),
            host_keys={HOST_KEY: make_key()},
            lan=lan,
        )

    @classmethod
    def read(cls, directory: Path) -> Identity:
        """Read the identity of the node in *directory*, which the process that started it has written.

        Raises
        ------
        PidocError
            The file is missing or damaged, or another version of pytest-pidoc wrote it.
        """
        path = directory / FILE
        try:
            told = documents.read(path)
            place = told.pop("lan")
            keys = {name: (private, public) for name, (private, public) in told.pop("host_keys").items()}
            return cls(**told, host_keys=keys, lan=None if place is None else LanPlace(**place))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise PidocError(
                f"Cannot read the identity of {directory.name} from {path}: {error}.",
                tip="run pidoc ps to see whether its cluster still runs",
            ) from error

    def write(self, directory: Path) -> None:
        """Write the file, which only this user can read: it contains the private host keys."""
        documents.write(directory / FILE, json.dumps(asdict(self)), mode=0o600)

    def reborn(self) -> Identity:
        """Return the identity for another boot: with a new boot id and a new random seed."""
        return replace(self, boot_id=str(uuid.uuid4()), random_seed=os.urandom(SEED_SIZE).hex())

    @property
    def public_host_keys(self) -> tuple[str, ...]:
        """The public keys, in the format of ``known_hosts`` without the host."""
        return tuple(public.strip() for _, public in self.host_keys.values())

    def request(self, *, ssh_held: bool, readdress: bool = False) -> bytes:
        """Return the lines that are sent to the guest's agent, with the current time: names, and values in hex.

        With *ssh_held*, the SSH server waits for its key, and starts while the agent does the rest. With *readdress*,
        the agent also sets the address of the network card.
        """
        return _lines(
            *self._moment(),
            *([("host_name", self.host_name.encode())] if self.host_name else []),
            *(("host_key", name.encode(), *(part.encode() for part in key)) for name, key in self.host_keys.items()),
            *([("start_ssh", self.host_keys[HOST_KEY][0].encode())] if ssh_held else []),
            ("machine_id", self.machine_id.encode()),
            ("boot_id", self.boot_id.encode()),
            ("mac_address", bytes.fromhex(self.mac_address.replace(":", ""))),
            *(self.lan.settings() if self.lan is not None else ()),
            *([("address", *(socket.inet_aton(part) for part in USER_NETWORK))] if readdress else []),
        )

    def renewal(self) -> bytes:
        """Return the lines for the agent of a node that has this identity already and goes on at another time."""
        return _lines(*self._moment(), ("boot_id", self.boot_id.encode()))

    def _moment(self) -> tuple[tuple[Any, ...], ...]:
        """Return what differs each time that a node goes on."""
        return ("clock", repr(time.time()).encode()), ("random_seed", bytes.fromhex(self.random_seed))


def _lines(*settings: tuple[Any, ...]) -> bytes:
    lines = (" ".join([name, *(value.hex() for value in values)]) for name, *values in (*settings, ("end",)))
    return "".join(f"{line}\n" for line in lines).encode()


def make_key() -> tuple[str, str]:
    """Make an Ed25519 key: 0.2 ms on the host, half a second in the guest."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode("ascii"), public.decode("ascii") + "\n"
