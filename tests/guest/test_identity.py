"""What makes a node itself, and how its agent is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_pidoc.errors import PidocError
from pytest_pidoc.guest.identity import FILE, HOST_KEY, Identity, LanPlace

if TYPE_CHECKING:
    from pathlib import Path

MAC = "52:54:00:01:02:03"


def settings(identity: Identity, *, ssh_held: bool) -> dict[str, list[bytes]]:
    lines = identity.request(ssh_held=ssh_held).decode("ascii").splitlines()
    return {name: [bytes.fromhex(value) for value in values] for name, *values in map(str.split, lines)}


def test_request_tells_all_of_it() -> None:
    """Every line is a name and its values in hex."""
    identity = Identity.new("pi-1", MAC)

    told = settings(identity, ssh_held=False)

    assert told["host_name"] == [b"pi-1"]
    assert told["machine_id"] == [identity.machine_id.encode()]
    assert told["mac_address"] == [bytes.fromhex("525400010203")]
    assert told["host_key"] == [HOST_KEY.encode(), *(part.encode() for part in identity.host_keys[HOST_KEY])]
    assert list(told)[-1] == "end"


@pytest.mark.parametrize("ssh_held", [True, False])
def test_held_ssh_server_gets_its_key_when_it_is_written(ssh_held: bool) -> None:
    """It starts behind the key and the host name, if it waits at all."""
    identity = Identity.new("pi-1", MAC)

    names = list(settings(identity, ssh_held=ssh_held))

    assert ("start_ssh" in names) is ssh_held
    if ssh_held:
        assert names.index("start_ssh") > max(names.index("host_key"), names.index("host_name"))


@pytest.mark.parametrize("readdress", [True, False])
def test_network_card_gets_its_address_behind_its_mac_address(readdress: bool) -> None:
    """The latter may take the former away."""
    lines = Identity.new("pi-1", MAC).request(ssh_held=False, readdress=readdress).decode("ascii").splitlines()
    names = [line.split()[0] for line in lines]

    assert ("address" in names) is readdress
    if readdress:
        assert names.index("address") > names.index("mac_address")


def test_two_identities_share_nothing() -> None:
    """Names may be equal, what is random is not."""
    one, other = (Identity.new("pi-1", MAC) for _ in range(2))

    assert one.machine_id != other.machine_id
    assert one.boot_id != other.boot_id
    assert one.random_seed != other.random_seed
    assert one.public_host_keys != other.public_host_keys


def test_place_in_the_lan_is_told() -> None:
    """Addresses as bytes, and the names of all nodes."""
    hosts = {"pi-1": "192.168.77.1", "pi-2": "192.168.77.2"}
    identity = Identity.new("pi-2", MAC, LanPlace("52:54:00:0a:0b:0c", "192.168.77.2/24", hosts))

    told = settings(identity, ssh_held=False)

    assert told["lan"] == [b"\x52\x54\0\x0a\x0b\x0c", bytes([192, 168, 77, 2]), bytes([255, 255, 255, 0])]
    assert told["hosts"] == [b"192.168.77.1\tpi-1\n192.168.77.2\tpi-2\n"]
    assert identity.reborn().lan == identity.lan


@pytest.mark.parametrize("place", [None, LanPlace(MAC, "192.168.77.1/24", {"pi-1": "192.168.77.1"})])
def test_another_process_reads_who_a_node_is(tmp_path: Path, place: LanPlace | None) -> None:
    """All of it, from a file that nobody else may read."""
    identity = Identity.new("pi-1", MAC, place)
    identity.write(tmp_path)

    assert Identity.read(tmp_path) == identity
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", "{}", '{"lan": 1, "host_keys": {}}', '{"lan": null}'])
def test_identity_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    """A damaged file is named."""
    if text is not None:
        (tmp_path / FILE).write_text(text)

    with pytest.raises(PidocError, match=rf"Cannot read the identity of .* from {tmp_path}"):
        Identity.read(tmp_path)
