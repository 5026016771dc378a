"""The LAN of a cluster: its addresses, and the process that is its switch."""

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

__all__ = ["NETWORK", "Condition", "Lan", "address"]

#: The same in every cluster: no two of them are connected. Not one that QEMU's user network or Docker uses.
NETWORK = IPv4Network("192.168.77.0/24")

SWITCH = Path(__file__).with_name("switch.py")
CONTROL_SOCKET = "switch.sock"
SWITCH_LOG = "switch.log"
PATIENCE = 10.0  # seconds until the switch has answered; a millisecond on an idle machine


def address(number: int) -> str:
    """Return the address of the node with that number, which starts at 1: ``192.168.77.1``."""
    return str(NETWORK[number])


@dataclass(frozen=True)
class Condition:
    """What happens to frames on their way from one node to another.

    Attributes
    ----------
    cut
        None arrives.
    delay
        Seconds that each takes longer.
    jitter
        Seconds that it may take longer or shorter than that, evenly distributed. Frames may overtake each other.
    loss
        The share of frames that do not arrive, from 0 to 1.
    rate
        Bits per second; 0 for no limit. What does not fit waits, 256 KiB at most.
    """

    cut: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0


class Lan:
    """The switch of the cluster in *directory*, for whoever started it and for any other process of the user.

    Parameters
    ----------
    directory
        The cluster's.
    names
        The nodes' names, in the order of the switch's ports.
    handle
        Which process it is: see `pytest_pidoc.host.processes.identify`.
    """

    def __init__(self, directory: Path, names: Sequence[str], handle: str) -> None:
        self.handle = handle
        self._directory = directory
        self._ports = {name: number for number, name in enumerate(names)}

    @classmethod
    def start(cls, directory: Path, names: Sequence[str]) -> tuple[Lan, subprocess.Popen[bytes]]:
        """Start the switch of a new cluster; each node's directory must be there.

        The sockets are made here, so that a QEMU can connect before the switch has come up.
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
        """Whether the switch runs."""
        return processes.is_alive(self.handle)

    def set(self, identity: str, pairs: Iterable[tuple[str, str]], condition: Condition) -> None:
        """Let a condition hold for the frames from the first node of each pair to the second.

        Parameters
        ----------
        identity
            A name for it, for `clear`. What had that name before holds no more.
        pairs
            Names of nodes.
        condition
            What happens to the frames. Where several conditions hold, they add up.

        Raises
        ------
        FaultError
            The switch is gone.
        """
        ports = [[self._ports[source], self._ports[target]] for source, target in pairs]
        self._order({"set": identity, "pairs": ports, "condition": asdict(condition)})

    def clear(self, identity: str) -> None:
        """Let a condition hold no more; it is no error when there is none of that name.

        Raises
        ------
        FaultError
            The switch is gone.
        """
        self._order({"clear": identity})

    def lost(self) -> Mapping[tuple[str, str], int]:
        """Return how many frames conditions have kept from arriving, by the names of sender and receiver.

        Raises
        ------
        FaultError
            The switch is gone.
        """
        names = list(self._ports)
        return {
            (names[source], names[target]): frames for source, target, frames in self._order({"look": True})["lost"]
        }

    def conditions(self) -> list[str]:
        """Return the names of the conditions that hold.

        Raises
        ------
        FaultError
            The switch is gone.
        """
        return list(self._order({"look": True})["conditions"])

    def raise_if_dead(self) -> None:
        """Raise `FaultError` if the switch is gone, and with it the network between the nodes."""
        if not self.alive:
            raise self._gone()

    def _order(self, order: Mapping[str, object]) -> Mapping[str, Any]:
        try:
            with unix.connect(self._directory / CONTROL_SOCKET, timeout=PATIENCE) as connection:
                connection.sendall(json.dumps(order).encode() + b"\n")
                answer: Mapping[str, Any] = documents.parse(unix.read_line(connection))
        except (OSError, ValueError) as error:
            if self.alive:
                raise FaultError(f"The switch of {self._directory.name} does not answer: {error}.") from error
            raise self._gone() from error
        return answer

    def _gone(self) -> FaultError:
        log = self._directory / SWITCH_LOG
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
        return FaultError(
            f"The switch of {self._directory.name}, process {self.handle.partition(':')[0]}, is gone:"
            " its nodes have no network between them any more.",
            evidence=said,
            tip="another cluster: cluster.down(), and up again",
        )
