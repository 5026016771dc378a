"""How other programs find the nodes: the configuration files of OpenSSH and Ansible."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from types import MappingProxyType

from pytest_pidoc.guest.ssh import Login, quoted, unexpanded

__all__ = ["inventory", "ssh_config"]


def ssh_config(logins: Mapping[str, Login]) -> str:
    """Return a configuration for ``ssh -F``, in which the nodes are hosts with those names."""
    return "\n".join(
        f"Host {name}\n"
        f"  HostName {login.host}\n"
        f"  Port {login.port}\n"
        f"  User {login.user}\n"
        f"  IdentityFile {quoted(login.private_key)}\n"
        f"  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {quoted(login.known_hosts)}\n"
        f"  StrictHostKeyChecking yes\n"
        for name, login in logins.items()
    )


def inventory(logins: Mapping[str, Login], lan_addresses: Mapping[str, str | None] = MappingProxyType({})) -> str:
    """Return an Ansible inventory in YAML: the nodes are the group ``pidoc``, with those names.

    Parameters
    ----------
    logins
        How to log in to each node, by its name.
    lan_addresses
        Addresses in the LAN by the nodes' names: the variable ``lan_address`` of those that have one.
    """
    lines = ["pidoc:", "  hosts:"]
    for name, login in logins.items():
        variables: Mapping[str, object] = {
            "ansible_host": login.host,
            "ansible_port": login.port,
            "ansible_user": login.user,
            "ansible_ssh_private_key_file": unexpanded(login.private_key),
            "ansible_ssh_common_args": (
                f"-F none -o IdentitiesOnly=yes -o {shlex.quote(f'UserKnownHostsFile={quoted(login.known_hosts)}')}"
            ),
            "ansible_python_interpreter": "/usr/bin/python3",
            **({"lan_address": address} if (address := lan_addresses.get(name)) else {}),
        }
        lines.append(f"    {name}:")
        lines += [f"      {key}: {json.dumps(value)}" for key, value in variables.items()]  # JSON is YAML
    return "\n".join(lines) + "\n"
