"""Waiting in a guest, which here is a shell behind a real SSH server, with this machine's ports."""

from __future__ import annotations

import math
import time

import pytest
from support import SshServer, StandInEngine, tcp_server

from pytest_pidoc.errors import NodeDied, SettingsError, WaitError, WaitTimeout
from pytest_pidoc.node import Node


def systemctl(server: SshServer, *states: str) -> None:
    """Put a program in the place of systemctl that shows one state after the other, and the last one for ever."""
    (server.home / "states").write_text("\n".join(states) + "\n")
    program = server.home / "bin" / "systemctl"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = status ]; then echo "$@"; echo "journal: no such file"; exit 3; fi\n'
        'if [ "$3" = LoadState ]; then echo "LoadState=$(cat loaded 2>/dev/null || echo loaded)"; exit; fi\n'
        'state=$(head -n 1 states); [ "$(wc -l <states)" -eq 1 ] || sed -i 1d states\n'
        'echo "ActiveState=$state"\n'
    )
    program.chmod(0o755)


def test_success_is_fabrics_result(node: Node) -> None:
    """The result is that of the run that succeeded, with the command as it was given."""
    result = node.wait_until_succeeds("echo x >>tries; echo $(wc -l <tries); [ $(wc -l <tries) -eq 2 ]")

    assert result.stdout == "2\n"
    assert result.command.startswith("echo x >>tries")


def test_failure_shows_the_last_status_and_output(node: Node) -> None:
    """Who waited in vain sees what the command said."""
    with pytest.raises(WaitTimeout, match=r"'echo no >&2; exit 7' did not succeed on pi-1 within 0\.6 s") as caught:
        node.wait_until_succeeds("echo no >&2; exit 7", timeout=0.6)

    assert "status 7\nno" in caught.value.evidence
    assert "timeout=1.2" in caught.value.tip


def test_command_that_does_not_end_is_ended(node: Node, server: SshServer) -> None:
    """It is ended in the guest, and what it had printed is shown."""
    start = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        node.wait_until_succeeds("echo begun; sleep 600; echo >survived", timeout=0.5)

    assert time.monotonic() - start < 10
    assert "it did not finish\nbegun" in caught.value.evidence
    assert not (server.home / "survived").exists()


def test_polling_does_not_spin(node: Node, server: SshServer) -> None:
    """Two looks a second."""
    with pytest.raises(WaitTimeout):
        node.wait_until_succeeds("echo x >>tries; false", timeout=1.2)

    assert 2 <= len((server.home / "tries").read_text().splitlines()) <= 4


def test_node_that_dies_is_told_as_that(node: Node, server: SshServer, engine: StandInEngine) -> None:
    """Its death is not taken for a failure of the command."""

    def die() -> None:
        engine.reason = "QEMU was killed by signal 9"
        server.hang_up()

    (server.home / "bin" / "die").write_text("#!/bin/sh\ntouch dying; sleep 5\n")
    (server.home / "bin" / "die").chmod(0o755)
    server.when("dying", die)
    with pytest.raises(NodeDied, match=r"pi-1 died while it ran .*: QEMU was killed by signal 9"):
        node.wait_until_succeeds("die", timeout=60)


def test_connection_that_breaks_is_made_again(node: Node, server: SshServer) -> None:
    """A server that starts again in between is no reason to give up."""
    server.when("begun", server.hang_up)

    node.wait_until_succeeds("[ -e begun ] || { touch begun; sleep 2; false; }", timeout=30)

    assert server.connections == 2


def test_port_that_is_open(node: Node) -> None:
    """The wait ends at once."""
    with tcp_server(lambda connection: None) as (_, port):
        node.wait_for_port(port, timeout=10)


def test_port_that_nobody_listens_on(node: Node) -> None:
    """The error shows what listens instead."""
    with tcp_server(lambda connection: None) as (_, other):
        with tcp_server(lambda connection: None) as (_, port):
            pass
        with pytest.raises(WaitTimeout, match=rf"pi-1 could not connect to 127.0.0.1:{port} within 0.7 s") as caught:
            node.wait_for_port(port, timeout=0.7)

    # ss prints the number in decimal, the kernel's own table in hexadecimal
    assert f":{other}" in caught.value.evidence or f":{other:04X}" in caught.value.evidence


def test_port_of_another_node(node: Node) -> None:
    """What listens on the node that waits is of no use there."""
    with pytest.raises(WaitTimeout, match=r"pi-1 could not connect to 127\.0\.0\.9:1 within 0.7 s") as caught:
        node.wait_for_port(1, host="127.0.0.9", timeout=0.7)

    assert caught.value.evidence == ""
    assert "that 127.0.0.9 is up" in caught.value.tip


def test_unit_that_becomes_active(node: Node, server: SshServer) -> None:
    """It is waited for."""
    systemctl(server, "inactive", "activating", "active")

    node.wait_for_unit("mosquitto", timeout=30)

    assert (server.home / "states").read_text() == "active\n"


def test_unit_that_has_failed(node: Node, server: SshServer) -> None:
    """That is told at once, with what systemctl and the journal say, and where there is more."""
    systemctl(server, "activating", "failed")
    start = time.monotonic()
    with pytest.raises(WaitError, match="The unit mosquitto failed on pi-1") as caught:
        node.wait_for_unit("mosquitto", timeout=60)

    assert not isinstance(caught.value, WaitTimeout)
    assert time.monotonic() - start < 30
    assert "journal: no such file" in caught.value.evidence
    assert caught.value.look.endswith("sudo journalctl -u mosquitto")
    assert caught.value.tip.endswith("start it again with pi.sudo('systemctl restart mosquitto')")


def test_unit_that_does_not_become_active(node: Node, server: SshServer) -> None:
    """The error shows the unit's state."""
    systemctl(server, "inactive")
    with pytest.raises(WaitTimeout, match=r"The unit ssh.socket did not become active on pi-1 within 0.7 s") as caught:
        node.wait_for_unit("ssh.socket", timeout=0.7)

    assert "journal: no such file" in caught.value.evidence


def test_unit_that_there_is_not(node: Node, server: SshServer) -> None:
    """Nobody is told to start it."""
    systemctl(server, "inactive")
    (server.home / "loaded").write_text("not-found")
    with pytest.raises(WaitTimeout, match=r"pi-1 has no unit mosquito; it did not appear within 0.7 s") as caught:
        node.wait_for_unit("mosquito", timeout=0.7)

    assert caught.value.tip.startswith("check the name with systemctl list-unit-files")


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, True, "60", None])
def test_no_time(node: Node, timeout: float) -> None:
    """A time that is none is refused before anybody is asked."""
    for wait in (lambda: node.wait_for_port(80, timeout=timeout), lambda: node.wait_for_unit("x", timeout=timeout)):
        with pytest.raises(SettingsError, match="timeout must be a number of seconds above 0 and at most 86400, not "):
            wait()
    with pytest.raises(SettingsError, match="timeout must be a number of seconds above 0 and at most 86400, not "):
        node.wait_until_succeeds("true", timeout=timeout)


@pytest.mark.parametrize("port", [0, -1, 65536, 80.0, "80", True, None])
def test_no_port(node: Node, port: int) -> None:
    """What is no port is refused, and neither can it be forwarded."""
    with pytest.raises(SettingsError, match="port must be a whole number from 1 to 65535, not "):
        node.wait_for_port(port)
    with pytest.raises(SettingsError, match="port must be a whole number from 1 to 65535, not "):
        node.forward(port)


@pytest.mark.parametrize("host", ["", "a b", "$(reboot)", "pi-2;true", "a/b"])
def test_no_host(node: Node, host: str) -> None:
    """What is no host does not get as far as a shell."""
    with pytest.raises(SettingsError, match="host must be a host name or an IP address, not "):
        node.wait_for_port(80, host=host)


@pytest.mark.parametrize("name", ["", "--all", "a b", "x;true", "x" * 256])
def test_no_unit(node: Node, name: str) -> None:
    """Nor does what is no unit."""
    with pytest.raises(SettingsError, match="is not a valid unit name"):
        node.wait_for_unit(name)
