"""Host isolation with the kernel's help: what a program under the guard can reach."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import eventually

from pytest_pidoc.host import processes
from pytest_pidoc.qemu import guard
from pytest_pidoc.qemu.refusals import refusals

MISSING = guard.why_open()
kernel = pytest.mark.skipif(MISSING is not None, reason=f"no host isolation here: {MISSING}")


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python program under the guard."""
    command = guard.command([sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)])
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


CONNECT = """
    import socket, sys
    for host in sys.argv[2:]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as client:
            client.settimeout(10)
            try:
                client.connect((host, int(sys.argv[1])))
                print(host, "reached")
            except OSError as error:
                print(host, error.strerror)
"""


def own_address() -> str:
    """Return an address of this machine that others reach it by; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine is in no network")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "::",
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "fd20:ce::254",
    ],
)
def test_this_machines_own_and_the_clouds_metadata_are_refused(address: str) -> None:
    """A guest reaches neither the loopback addresses of the host nor the metadata service of a cloud, on any port."""
    for port in (1, 53, 80, 65535):
        assert guard.refused(ipaddress.ip_address(address), port)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.1", "172.17.0.1", "128.0.0.1", "2001:db8::1", "fd00::1"])
def test_all_else_is_reached(address: str) -> None:
    """The internet, and networks around this machine."""
    assert not guard.refused(ipaddress.ip_address(address), 80)


def test_a_name_server_of_this_machines_is_asked_and_no_more() -> None:
    """systemd-resolved and Docker have theirs on the loopback interface, and QEMU asks it for the guest."""
    resolvers = frozenset({"127.0.0.53"})

    assert not guard.refused(ipaddress.ip_address("127.0.0.53"), 53, resolvers)
    assert guard.refused(ipaddress.ip_address("127.0.0.53"), 80, resolvers)
    assert guard.refused(ipaddress.ip_address("127.0.0.1"), 53, resolvers)


def test_an_address_is_read_as_the_kernel_reads_it() -> None:
    """IPv4 within IPv6 is IPv4; other families have none; what is too short does not stop who answers."""
    inet = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 80) + bytes([127, 0, 0, 1]) + bytes(8)
    mapped = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 80, 0) + bytes(10) + b"\xff\xff" + inet[4:8]

    assert guard.place(inet) == (ipaddress.ip_address("127.0.0.1"), 80)
    assert guard.place(mapped) == (ipaddress.ip_address("127.0.0.1"), 80)
    assert guard.place(struct.pack("=H", socket.AF_UNIX) + b"qmp.sock") is None
    for length in range(len(inet)):
        guard.place(inet[:length])
        guard.place(mapped[:length])


@kernel
def test_the_kernel_refuses_connections(tmp_path: Path) -> None:
    """By every name that the loopback interface has; the log says what was refused, once, and is read again."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        hosts = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::ffff:127.0.0.1", "169.254.169.254", "127.0.0.1"]
        done = run(CONNECT, port, *hosts)

    assert done.stdout.splitlines() == [f"{host} Network is unreachable" for host in hosts]
    assert (
        done.stderr.count(f"refused a connection of the guest to 127.0.0.1 port {port}; host_access=True allows it\n")
        == 1
    )
    log = tmp_path / "qemu.log"
    log.write_text(f"qemu: something else\n{done.stderr}")
    assert refusals(log)[0] == f"127.0.0.1 port {port}"
    assert len(refusals(log)) == len(done.stderr.splitlines())
    assert refusals(tmp_path / "none.log") == []


@kernel
def test_the_kernel_lets_other_connections_through() -> None:
    """To this machine, too, by an address that others reach it by."""
    address = own_address()
    with socket.create_server((address, 0)) as server:
        done = run(CONNECT, server.getsockname()[1], address)

    assert (done.stdout, done.stderr) == (f"{address} reached\n", "")


@kernel
def test_datagrams_are_refused_but_from_a_forwarded_port() -> None:
    """Of QEMU's sockets only that of a forward is bound to 127.0.0.1: through it the guest answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        done = run(
            """
            import socket, sys
            place = ("127.0.0.1", int(sys.argv[1]))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                try:
                    client.sendto(b"refused", place)
                except OSError as error:
                    print(error.strerror)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind(("127.0.0.1", 0))
                client.sendto(b"answer", place)
            """,
            server.getsockname()[1],
        )

        assert done.stdout == "Network is unreachable\n"
        assert server.recv(100) == b"answer"


@kernel
def test_unix_sockets_and_threads_work_under_the_guard(tmp_path: Path) -> None:
    """As QEMU has them for its LAN; several threads may ask at once."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(32)
        done = run(
            """
            import socket, sys, threading
            def connect():
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(sys.argv[1])
                    print("reached\\n", end="", flush=True)
            threads = [threading.Thread(target=connect) for _ in range(16)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            """,
            tmp_path / "s",
        )

    assert done.stdout.split() == ["reached"] * 16


@kernel
@pytest.mark.parametrize("status", [0, 3])
def test_it_ends_as_its_program_does(status: int) -> None:
    """The guard's exit status is that of the program that it runs."""
    assert run(f"raise SystemExit({status})").returncode == status


@kernel
def test_it_ends_by_the_signal_that_ended_its_program() -> None:
    """A program that was killed by a signal does not look as if it had ended with a status."""
    assert run("import os; os.kill(os.getpid(), 9)").returncode == -9


@kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_neither_outlives_the_other(number: int) -> None:
    """However the guard is ended, its program is, too."""
    name = f"c-guard-{os.getpid()}"
    command = guard.command([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, processes.CLUSTER_VARIABLE: name}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert len(list(processes.of_cluster(name))) == 2
        process.send_signal(number)

        assert process.wait(10) < 0
        assert eventually(lambda: not list(processes.of_cluster(name)))


@kernel
def test_a_program_that_is_not_there_is_named() -> None:
    """A program that cannot be run ends with status 127, as in a shell, and the message names it."""
    done = subprocess.run(guard.command(["/nowhere/qemu"]), capture_output=True, text=True, check=False)

    assert done.returncode == 127
    assert done.stderr == "pidoc-guard: /nowhere/qemu: No such file or directory\n"


@kernel
def test_without_the_kernels_help_the_program_runs_and_the_log_says_so(tmp_path: Path) -> None:
    """Such as where somebody watches already, here a guard around the guard."""
    log = tmp_path / "qemu.log"
    with log.open("w") as stream:
        inner = guard.command([sys.executable, "-c", "print('ran', flush=True)"])
        subprocess.run(guard.command(inner), stdout=stream, stderr=stream, check=True)

    assert log.read_text().splitlines() == [f"{guard.OPEN}: Device or resource busy", "ran"]
    with pytest.warns(
        RuntimeWarning,
        match=r"the guest can reach services on 127\.0\.0\.1 of the host: Device or resource busy.*--pidoc-internet=no",
    ):
        guard.warn_if_open(log)


def test_a_log_without_such_a_word_is_no_warning(tmp_path: Path) -> None:
    """QEMU's own warnings and a log that does not exist say nothing about the guard, so Python warns of nothing."""
    (tmp_path / "qemu.log").write_text("qemu-system-aarch64: warning\n")
    guard.warn_if_open(tmp_path / "qemu.log")
    guard.warn_if_open(tmp_path / "nothing.log")


def test_what_the_kernel_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine or a kernel on which it is known not to work."""
    here = os.uname()

    monkeypatch.setattr(os, "uname", lambda: here.__class__((*here[:2], "5.4.0-150-generic", *here[3:])))
    with pytest.raises(OSError, match=r"^host isolation requires Linux 5\.5 or newer, not 5\.4\.0-150-generic$"):
        guard._require_system()
    monkeypatch.setattr(os, "uname", lambda: here.__class__((*here[:4], "pdp11")))
    with pytest.raises(OSError, match=r"^host isolation does not support pdp11 hosts$"):
        guard._require_system()
