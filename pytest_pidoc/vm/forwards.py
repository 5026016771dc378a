"""Port forwards: a port of the host that leads to a port of a node, until the forward is closed.

On the engine ``local``, QEMU listens on the host. A running container cannot get new ports, and its QEMU's ports
cannot be reached from everywhere, so the engine ``docker`` uses the node's SSH connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_pidoc.errors import MonitorError, PidocError, SettingsError
from pytest_pidoc.values.checks import shown
from pytest_pidoc.vm.waits import require_port

if TYPE_CHECKING:
    import paramiko

    from pytest_pidoc.vm.vm import Vm

__all__ = ["HOST", "Forward", "check", "open_forward"]

HOST = "127.0.0.1"
#: The address of every guest in QEMU's user network, to which QEMU forwards.
GUEST = "10.0.2.15"
ATTEMPTS = 10  # at a port that was free a moment ago
OPENING = 10.0  # seconds until the guest must have accepted a connection
CHUNK = 65536


@dataclass(frozen=True)
class Forward:
    """A port of the host that leads to a port of a node; a context manager that closes it.

    Attributes
    ----------
    host, port
        Where to connect to on the host: ``127.0.0.1`` and a number.
    guest_port
        The node's port.
    protocol
        ``tcp`` or ``udp``.
    """

    host: str
    port: int
    guest_port: int
    protocol: str
    _closing: contextlib.ExitStack = field(compare=False, repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    @property
    def active(self) -> bool:
        """Whether `close` was not called yet."""
        return not self._closed.is_set()

    def close(self) -> None:
        """End the forward; open connections stay open. Calling it again does nothing."""
        self._closed.set()
        self._closing.close()

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check(port: int, protocol: str) -> None:
    """Raise `SettingsError` if the port or the protocol is invalid."""
    require_port(port)
    if not isinstance(protocol, str) or protocol not in {"tcp", "udp"}:
        raise SettingsError(f'protocol must be "tcp" or "udp", not {shown(protocol)}.', tip='set protocol="tcp"')


def open_forward(vm: Vm, port: int, protocol: str) -> Forward:
    """Open a forward to a node's port, which ends with the connections to it; see `Node.forward`."""
    check(port, protocol)
    vm.raise_if_dead(f"before its port {port} was forwarded")
    forward = _opened(vm, port, protocol)
    vm.dependents.append(forward)
    forward._closing.callback(_forget, vm, forward)
    return forward


def _forget(vm: Vm, forward: Forward) -> None:
    with contextlib.suppress(ValueError):  # closed by two threads
        vm.dependents.remove(forward)


def _opened(vm: Vm, port: int, protocol: str) -> Forward:
    if vm.endpoint.engine == "local":
        return _by_qemu(vm, port, protocol)
    if protocol != "tcp":
        raise SettingsError(
            f"The engine {vm.endpoint.engine} can forward only tcp, not {protocol}.", tip="use --pidoc-engine=local"
        )
    return _by_ssh(vm, port)


def _by_qemu(vm: Vm, guest_port: int, protocol: str) -> Forward:
    for _ in range(ATTEMPTS):
        # QEMU does not report which port the OS gave it, and several forwards can lead to the same port of the guest.
        port = _free_port(protocol)
        rule = f"{protocol}:{HOST}:{port}"
        with vm.qmp() as monitor:
            said = monitor.human(f"hostfwd_add net0 {rule}-:{guest_port}").strip()
        if not said:
            break
    else:
        raise MonitorError(f"QEMU cannot forward to port {guest_port} of {vm.name}.", evidence=said)
    closing = contextlib.ExitStack()

    def remove() -> None:
        if vm.death() is None:  # or it went with its QEMU
            with vm.qmp() as monitor:
                monitor.human(f"hostfwd_remove net0 {rule}")

    closing.callback(remove)
    return Forward(HOST, port, guest_port, protocol, closing)


def _free_port(protocol: str) -> int:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _by_ssh(vm: Vm, guest_port: int) -> Forward:
    listener = socket.create_server((HOST, 0))
    port = int(listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                client, peer = listener.accept()
            except OSError:  # the forward was closed
                return
            threading.Thread(target=_relay, args=(client, peer, vm, guest_port), daemon=True).start()

    thread = threading.Thread(target=serve, name=f"pidoc-forward-{port}", daemon=True)
    thread.start()
    closing = contextlib.ExitStack()
    closing.callback(thread.join)
    closing.callback(listener.close)
    closing.callback(_wake, listener)
    return Forward(HOST, port, guest_port, "tcp", closing)


def _wake(listener: socket.socket) -> None:
    """Let ``accept`` return, which closing alone does not."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _relay(client: socket.socket, peer: tuple[str, int], vm: Vm, guest_port: int) -> None:
    """Connect one client to the guest's port over SSH, until both sides have closed.

    The client's connection is closed if nothing listens on the guest's port, or as soon as the node has ended.
    """
    import paramiko

    with client, contextlib.suppress(PidocError, paramiko.SSHException, OSError, EOFError):
        # A restart of the guest replaces the connection; during the restart the node has none.
        transport = None if vm.death() else vm.connection.transport
        if transport is None:
            return
        with transport.open_channel("direct-tcpip", (GUEST, guest_port), peer, timeout=OPENING) as channel:
            back = threading.Thread(target=_pump, args=(channel, client), daemon=True)
            back.start()
            _pump(client, channel)
            back.join()


def _pump(source: socket.socket | paramiko.Channel, target: socket.socket | paramiko.Channel) -> None:
    """Pass on data until the source closes, then close the other side for writing."""
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError, EOFError):
        target.shutdown(socket.SHUT_WR)
