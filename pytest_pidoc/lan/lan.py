"""The LAN of a cluster: its addresses, and the process that runs its switch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from pytest_pidoc.errors import FaultError
from pytest_pidoc.host import documents, processes
from pytest_pidoc.host import sockets as unix
from pytest_pidoc.values.files import LAN_SOCKET

__all__ = ["NETWORK", "SWITCH_LOG", "Condition", "Lan", "address"]

#: The same in every cluster, because clusters are not connected. QEMU's user network and Docker use others.
NETWORK = IPv4Network("192.168.77.0/24")

SWITCH = Path(__file__).with_name("switch.py")
CONTROL_SOCKET = "switch.sock"
SWITCH_LOG = "switch.log"
PATIENCE = 10.0  # seconds until the switch has answered; a millisecond on an idle host


def address(number: int) -> str:
    """Return the address of the node with that number, which starts at 1: ``192.168.77.1``."""
    return str(NETWORK[number])


@dataclass(frozen=True)
class Condition:
    """What happens to frames on their way from one node to another.

    Attributes
    ----------
    cut
        Whether all frames are dropped.
    delay
        Seconds by which each frame is delayed.
    jitter
        Seconds by which the delay varies up and down, evenly distributed. Frames can overtake each other.
    loss
        The share of frames that are dropped, from 0 to 1.
    rate
        Bits per second; 0 for no limit. At most 256 KiB are queued.
    """

    cut: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0


class Lan:
    """The switch of the cluster in *directory*, for the process that started it and all others of the user.

    Parameters
    ----------
    directory
        The cluster's directory.
    names
        The nodes' names, in the order of the switch's ports.
    handle
        Identifies the process: see `pytest_pidoc.host.processes.identify`.
    """

    def __init__(self, directory: Path, names: Sequence[str], handle: str) -> None:
        self.handle = handle
        self._directory = directory
        self._ports = {name: number for number, name in enumerate(names)}

    @classmethod
    def start(cls, directory: Path, names: Sequence[str]) -> tuple[Lan, subprocess.Popen[bytes]]:
        """Start the switch of a new cluster; each node's directory must exist.

        The sockets are made here, so that a QEMU can connect before the switch is running.
        """
        with contextlib.ExitStack() as sockets:
            paths = (directory / CONTROL_SOCKET, *(directory / name / LAN_SOCKET for name in names))
            descriptors = [sockets.enter_context(unix.listen(path)).fileno() for path in paths]
            with (directory / SWITCH_LOG).open("wb") as log:
                child = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(SWITCH), *map(str, descriptors)],
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=descriptors,
                    start_new_session=True,  # a Ctrl-C in the terminal is for pytest
                    env={**os.environ, processes.CLUSTER_VARIABLE: directory.name},
                )
        handle = processes.identify(child.pid)
        return cls(directory, names, handle or f"{child.pid}:0:gone"), child

    @property
    def names(self) -> Sequence[str]:
        """The nodes' names."""
        return tuple(self._ports)

    @property
    def alive(self) -> bool:
        """Whether the switch is running."""
        return processes.is_alive(self.handle)

    def set(self, identity: str, pairs: Iterable[tuple[str, str]], condition: Condition) -> None:
        """Set a condition for the frames from the first node of each pair to the second.

        Parameters
        ----------
        identity
            The condition's name, for `clear`. It replaces a condition of the same name.
        pairs
            Names of nodes.
        condition
            What happens to the frames. Several conditions add up.

        Raises
        ------
        FaultError
            The switch has ended.
        """
        ports = [[self._ports[source], self._ports[target]] for source, target in pairs]
        self._order({"set": identity, "pairs": ports, "condition": asdict(condition)})

    def clear(self, identity: str) -> None:
        """End a condition; an unknown name is ignored.

        Raises
        ------
        FaultError
            The switch has ended.
        """
        self._order({"clear": identity})

    def lost(self) -> Mapping[tuple[str, str], int]:
        """Return how many frames were dropped because of conditions, by the names of sender and receiver.

        Raises
        ------
        FaultError
            The switch has ended.
        """
        names = list(self._ports)
        return {
            (names[source], names[target]): frames for source, target, frames in self._order({"look": True})["lost"]
        }

    def conditions(self) -> list[str]:
        """Return the names of the current conditions.

        Raises
        ------
        FaultError
            The switch has ended.
        """
        return list(self._order({"look": True})["conditions"])

    def raise_if_dead(self) -> None:
        """Raise `FaultError` if the switch has ended, and with it the network between the nodes."""
        if not self.alive:
            raise self._gone()

    def _order(self, order: Mapping[str, object]) -> Mapping[str, Any]:
        try:
            with unix.connect(self._directory / CONTROL_SOCKET, timeout=PATIENCE) as connection:
                connection.sendall(json.dumps(order).encode() + b"\n")
                answer: Mapping[str, Any] = documents.parse(unix.read_line(connection))
        except (OSError, ValueError) as error:
            if self.alive:
                raise FaultError(f"The network switch of {self._directory.name} does not answer: {error}.") from error
            raise self._gone() from error
        return answer

    def _gone(self) -> FaultError:
        return FaultError(
            f"The network switch of {self._directory.name} (process {self.handle.partition(':')[0]}) has ended,"
            " so its nodes cannot reach each other.",
            evidence=documents.tail(self._directory / SWITCH_LOG),
            tip="end the cluster with cluster.down() and start a new one",
        )
