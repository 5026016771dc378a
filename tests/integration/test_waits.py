"""Waiting for what happens in a real guest, and forwards to it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from support import vm_of

from pytest_pidoc import BootTimeout, ConsoleError, Node, NodeDied, Settings, WaitError, WaitTimeout
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.store.image import Image


def later(seconds: float, do: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.start()
    return timer


@pytest.fixture
def served(any_node: Node) -> Iterator[Node]:
    """Let the node serve a file on port 8080 of its card, from two seconds on."""
    any_node.run("mkdir -p www && echo hello from $(hostname) >www/index.html")
    any_node.run(
        "sudo systemd-run --unit=www --uid=pi sh -c 'sleep 2; exec python3 -m http.server -d /home/pi/www 8080'"
    )
    yield any_node
    any_node.run("sudo systemctl stop www", warn=True)


def test_forward_to_a_server_that_starts_later(served: Node) -> None:
    """The port is waited for, then this machine talks to it, over several forwards at a time."""
    start = time.monotonic()
    served.wait_for_port(8080)
    assert time.monotonic() - start < 60
    with served.forward(8080) as web, served.forward(8080) as other:
        for each in (web, other, web):
            with urllib.request.urlopen(f"http://{each.host}:{each.port}/", timeout=60) as answer:
                assert answer.read() == b"hello from pi-1\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((web.host, web.port), timeout=5)


@pytest.mark.qemu
def test_port_that_nobody_listens_on(node: Node) -> None:
    """The error shows that SSH listens."""
    with pytest.raises(WaitTimeout, match=r"pi-1 could not connect to 127.0.0.1:81 within 3 s") as caught:
        node.wait_for_port(81, timeout=3)

    assert "0.0.0.0:22 " in caught.value.evidence


@pytest.mark.qemu
def test_unit_that_becomes_active(node: Node) -> None:
    """The wait ends when it is, not before."""
    node.run("sudo systemd-run --no-block --unit=slow -p ExecStartPre='/bin/sleep 3' sleep 600")
    start = time.monotonic()
    node.wait_for_unit("slow")

    assert 1 < time.monotonic() - start < 60
    assert node.run("systemctl is-active slow").stdout == "active\n"


@pytest.mark.qemu
def test_unit_that_fails(node: Node) -> None:
    """The error comes at once, with what the unit said."""
    node.run("sudo systemd-run --unit=bad sh -c 'sleep 2; echo there is no such file; exit 9'")
    node.wait_until_succeeds("systemctl is-failed bad", timeout=60)
    start = time.monotonic()
    with pytest.raises(WaitError, match="The unit bad failed on pi-1") as caught:
        node.wait_for_unit("bad", timeout=600)

    assert time.monotonic() - start < 30
    assert not isinstance(caught.value, WaitTimeout)
    assert "status=9" in caught.value.evidence
    assert "there is no such file" in caught.value.evidence


@pytest.mark.qemu
def test_unit_that_does_not_exist(node: Node) -> None:
    """The error shows that there is none."""
    with pytest.raises(WaitTimeout, match="pi-1 has no unit nosuch; it did not appear") as caught:
        node.wait_for_unit("nosuch", timeout=2)

    assert "could not be found" in caught.value.evidence


@pytest.mark.qemu
def test_command_that_succeeds_later(node: Node) -> None:
    """It is run as Fabric runs it, until it succeeds."""
    node.run("(sleep 2; echo it is here >later.txt) >/dev/null 2>&1 &")

    assert node.wait_until_succeeds("grep here ~/later.txt").stdout == "it is here\n"


@pytest.mark.qemu
def test_command_that_does_not_end(node: Node) -> None:
    """It is ended in the guest, with its children."""
    with pytest.raises(WaitTimeout, match=r"\(1 attempt\)") as caught:
        node.wait_until_succeeds("echo begun; sleep 4321; true", timeout=2)

    assert "it did not finish\nbegun" in caught.value.evidence
    assert node.run("pgrep -fx 'sleep 4321'", warn=True).stdout == ""


@pytest.mark.qemu
def test_guest_that_hangs(node: Node) -> None:
    """A machine that stands still is not waited for any longer than one that runs."""
    node.monitor.execute("stop")
    try:
        start = time.monotonic()
        with pytest.raises(WaitTimeout, match="the guest does not answer"):
            node.wait_until_succeeds("true", timeout=2)
        assert time.monotonic() - start < 40
    finally:
        node.monitor.execute("cont")

    assert node.wait_until_succeeds("echo again", timeout=120).stdout == "again\n"


@pytest.mark.qemu
def test_console_shows_what_came_instead(node: Node) -> None:
    """What is expected on the console has a limit, too."""
    node.run("sudo sh -c 'echo something else >/dev/console'")
    with node.console as console:
        console.sendline("")
        with pytest.raises(ConsoleError, match="did not show 'no such prompt' within") as caught:
            console.expect("no such prompt", timeout=5)

    assert "pi-1" in caught.value.evidence


@pytest.mark.qemu
def test_node_that_dies_while_it_is_waited_for(settings: Settings, image: Image) -> None:
    """It is told as that, with the last serial lines, long before the time is over."""
    with Cluster.up(nodes=1, engine="local", settings=settings) as cluster:
        node = cluster[0]
        pid = int(vm_of(node).endpoint.handle.partition(":")[0])
        killer = later(3, lambda: os.kill(pid, signal.SIGKILL))
        start = time.monotonic()
        with pytest.raises(NodeDied, match=r"pi-1 died while it ran .*: QEMU was killed by signal 9") as caught:
            node.wait_for_port(81, timeout=600)
        killer.join()

    assert time.monotonic() - start < 60
    assert not isinstance(caught.value, BootTimeout)
    assert caught.value.evidence
