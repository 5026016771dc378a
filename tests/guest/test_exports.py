"""Configuration files for other programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_pidoc.guest import exports
from pytest_pidoc.guest.ssh import Login

LOGINS = {
    "pi-1": Login("127.0.0.1", 40001, "pi", Path("/a key/id"), Path("/c-1/pi-1/known_hosts")),
    "pi-2": Login("127.0.0.1", 40002, "pi", Path("/50%/id"), Path("/it's/known_hosts")),
}


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
@pytest.mark.parametrize("name", LOGINS)
def test_openssh_reads_the_configuration(tmp_path: Path, name: str) -> None:
    """OpenSSH connects to the node's port as its user with its key, whatever is in the paths, and pins the host key."""
    (tmp_path / "config").write_text(exports.ssh_config(LOGINS))
    command = ["ssh", "-G", "-F", tmp_path / "config", name]
    said = dict(
        line.split(" ", 1)
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        if " " in line
    )

    login = LOGINS[name]
    assert (said["hostname"], said["port"], said["user"]) == (login.host, str(login.port), login.user)
    assert said["identityfile"].replace("%%", "%") == str(login.private_key)
    assert said["userknownhostsfile"].replace("%%", "%") == str(login.known_hosts)
    assert (said["identitiesonly"], said["stricthostkeychecking"]) == ("yes", "true")


def test_inventory_has_every_node_in_one_group() -> None:
    """The file is YAML whose values are JSON: a group with a host per node, and variables of each."""
    head, group, *lines = exports.inventory(LOGINS, {"pi-1": "192.168.77.1", "pi-2": None}).splitlines()
    found: dict[str, dict[str, object]] = {}
    variables: dict[str, object] = {}
    for line in lines:
        key, _, value = line.strip().partition(":")
        if value:
            variables[key] = json.loads(value)
        else:
            variables = found[key] = {}

    assert (head, group) == ("pidoc:", "  hosts:")
    assert list(found) == ["pi-1", "pi-2"]
    assert [(each["ansible_host"], each["ansible_port"]) for each in found.values()] == [
        ("127.0.0.1", 40001),
        ("127.0.0.1", 40002),
    ]
    assert found["pi-1"]["ansible_ssh_private_key_file"] == "/a key/id"
    assert found["pi-2"]["ansible_ssh_private_key_file"] == "/50%%/id"  # OpenSSH expands it
    assert found["pi-1"]["lan_address"] == "192.168.77.1"
    assert "lan_address" not in found["pi-2"]  # it is in no LAN
    assert "UserKnownHostsFile" in str(found["pi-2"]["ansible_ssh_common_args"])
