"""The switch of a cluster's LAN: a process that passes or drops Ethernet frames between the nodes.

Run as ``python -I -S switch.py CONTROL-FD PORT-FD...`` with listening sockets: one that takes orders, and one for
each node's QEMU (``-netdev stream``), which sends every frame with its length before it, 32 bits in network order.
It imports only the standard library, because a cluster's start waits for this process.

Frames that arrive together for the same port are passed on together: without conditions, this process reads only the
length and the two addresses of a frame.

An order is a line of JSON, and so is its answer. Each has an ``id``::

    {"set": ID, "pairs": [[0, 1], ...], "condition": {"delay": 0.1, ...}}   sets a condition from one port to another
    {"clear": ID}                                                           ends the condition
    {"look": true}                                                          {"ports": [...], "lost": [...]}
"""

from __future__ import annotations

import heapq
import json
import random
import selectors
import socket
import sys
import time
from collections import deque

READ = 1 << 18  # bytes read at a time: 170 frames
MOST_FRAME = 1 << 17  # QEMU's own limit is 68 KiB
QUEUE = 1 << 22  # bytes that wait for a port: more than a TCP connection sends before it waits for an answer
SLOW_QUEUE = 1 << 18  # bytes that wait where the rate is limited: what a router holds
ADDRESSES = 4096  # that are remembered
# Under load, frames are collected for a moment, as a network card's driver does: waking up for each frame costs more
# than passing it on.
MODERATE = 3_000_000  # bytes per second above which they are collected
SLOT = 0.01  # seconds over which they are counted
MOMENT = 0.0005  # seconds


class Port:
    """A node's place in the switch."""

    def __init__(self, switch: Switch, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.connection: socket.socket | None = None
        self.rest = b""  # the beginning of a frame whose end has not come
        self.received = self.sent = self.dropped = 0  # bytes
        self._switch = switch
        self._waiting: deque[bytes] = deque()
        self._queued = 0

    def plug(self) -> None:
        """Connect the node's QEMU, replacing an earlier one."""
        connection, _ = self.listener.accept()
        self.unplug()
        connection.setblocking(False)
        self.connection = connection
        self._switch.selector.register(connection, selectors.EVENT_READ, self.ready)

    def unplug(self) -> None:
        """Forget a QEMU that has ended, and the frames that waited for it."""
        if self.connection is not None:
            self._switch.selector.unregister(self.connection)
            self.connection.close()
        self.connection = None
        self.rest = b""
        self._waiting.clear()
        self._queued = 0

    def ready(self, events: int) -> None:
        """Read and write as much as is possible without blocking."""
        if events & selectors.EVENT_WRITE:
            self._write()
        if events & selectors.EVENT_READ and self.connection is not None:
            try:
                data = self.connection.recv(READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self.received += len(data)
                self._switch.receive(self, data)
            else:
                self.unplug()

    def send(self, frames: bytes | memoryview) -> None:
        """Send whole frames, or drop them if the queue is full."""
        if self.connection is None:
            return
        if not self._waiting:
            try:
                done = self.connection.send(frames)
            except BlockingIOError:
                done = 0
            except OSError:
                self.unplug()
                return
            self.sent += done
            if done == len(frames):
                return
            self._switch.selector.modify(self.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, self.ready)
            frames = frames[done:]
        elif self._queued + len(frames) > QUEUE:
            self.dropped += len(frames)
            return
        self._waiting.append(bytes(frames))
        self._queued += len(frames)

    def _write(self) -> None:
        if self.connection is None:
            return
        while self._waiting:
            first = self._waiting[0]
            try:
                done = self.connection.send(first)
            except BlockingIOError:
                return
            except OSError:
                self.unplug()
                return
            self.sent += done
            self._queued -= done
            if done < len(first):
                self._waiting[0] = first[done:]
                return
            self._waiting.popleft()
        self._switch.selector.modify(self.connection, selectors.EVENT_READ, self.ready)


class Way:
    """What happens to the frames from one port to another: the sum of all conditions for them."""

    def __init__(self, conditions: list[dict[str, float]]) -> None:
        self.cut = any(each.get("cut") for each in conditions)
        self.delay = sum(each.get("delay", 0.0) for each in conditions)
        self.jitter = sum(each.get("jitter", 0.0) for each in conditions)
        arrives = 1.0
        for each in conditions:
            arrives *= 1.0 - each.get("loss", 0.0)
        self.loss = 1.0 - arrives
        self.rate = min((each["rate"] for each in conditions if each.get("rate")), default=0.0)
        self.free = 0.0  # when the last bit of the earlier frames has passed

    def arrival(self, size: int, now: float) -> float | None:
        """Return when a frame of *size* bytes arrives that is sent *now*, or ``None`` if it is lost."""
        if self.cut or random.random() < self.loss:  # noqa: S311 # no secret
            return None
        arrival = now
        if self.rate:
            begin = max(now, self.free)
            if (begin - now) * self.rate > SLOW_QUEUE * 8:
                return None
            arrival = self.free = begin + size * 8 / self.rate
        return arrival + max(0.0, self.delay + random.uniform(-self.jitter, self.jitter))  # noqa: S311


class Switch:
    """Ports, the addresses behind them, and the conditions between them."""

    def __init__(self, control: socket.socket, listeners: list[socket.socket]) -> None:
        self.selector = selectors.DefaultSelector()
        self.ports = [Port(self, number, listener) for number, listener in enumerate(listeners)]
        for port in self.ports:
            self.selector.register(port.listener, selectors.EVENT_READ, lambda _, port=port: port.plug())
        self.selector.register(control, selectors.EVENT_READ, lambda _: Client(self, control.accept()[0]))
        self._addresses: dict[bytes, Port] = {}
        self._conditions: dict[str, tuple[list[list[int]], dict[str, float]]] = {}
        self._ways: dict[tuple[int, int], Way] = {}
        self._lost: dict[tuple[int, int], int] = {}  # frames
        self._late: list[tuple[float, int, int, Port, bytes]] = []
        self._count = 0
        self.passed = 0  # bytes

    def run(self) -> None:
        """Pass frames until this process is killed."""
        slot, before, much = 0.0, 0, False
        while True:
            if much:
                time.sleep(MOMENT)
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for key, events in self.selector.select(wait):
                key.data(events)
            now = time.monotonic()
            if now - slot >= SLOT:
                much = self.passed - before > MODERATE * (now - slot)
                slot, before = now, self.passed
            while self._late and self._late[0][0] <= now:
                _, _, source, target, frame = heapq.heappop(self._late)
                way = self._ways.get((source, target.number))
                if way is None or not way.cut:
                    target.send(frame)

    def receive(self, port: Port, data: bytes) -> None:
        """Pass on the frames that *port* has sent; consecutive frames to the same port are sent together."""
        self.passed += len(data)
        if port.rest:
            data = port.rest + data
        view = memoryview(data)
        addresses = self._addresses
        begin = position = 0
        target: Port | None = None
        while len(data) - position >= 16:  # the shortest frame
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            if end > len(data):
                break
            source = data[position + 10 : position + 16]
            if addresses.get(source) is not port and not source[0] & 1:
                if len(addresses) >= ADDRESSES:
                    addresses.clear()
                addresses[source] = port
            to = None if data[position + 4] & 1 else addresses.get(data[position + 4 : position + 10])
            if to is not target:
                self._pass(port, view[begin:position], target)
                begin, target = position, to
            position = end
        self._pass(port, view[begin:position], target)
        port.rest = data[position:]
        if len(port.rest) > MOST_FRAME:  # not what QEMU speaks
            port.unplug()

    def _pass(self, port: Port, frames: memoryview, target: Port | None) -> None:
        """Pass frames from *port* to *target*; to every other port if the target is unknown."""
        if not frames:
            return
        for other in self.ports if target is None else (target,):
            if other is port:
                continue
            way = self._ways.get((port.number, other.number))
            if way is None:
                other.send(frames)
            else:
                self._delay(port, frames, other, way)

    def _delay(self, port: Port, frames: memoryview, target: Port, way: Way) -> None:
        now = time.monotonic()
        position = 0
        while position < len(frames):
            end = position + 4 + int.from_bytes(frames[position : position + 4], "big")
            arrival = way.arrival(end - position - 4, now)
            if arrival is None:
                pair = (port.number, target.number)
                self._lost[pair] = self._lost.get(pair, 0) + 1
            elif arrival <= now:
                target.send(frames[position:end])
            else:
                self._count += 1  # frames with the same arrival time keep their order
                frame = bytes(frames[position:end])
                heapq.heappush(self._late, (arrival, self._count, port.number, target, frame))
            position = end

    def order(self, order: dict[str, object]) -> dict[str, object]:
        """Carry out an order, and return the answer."""
        if "set" in order:
            self._conditions[order["set"]] = (order["pairs"], order["condition"])  # type: ignore[index,assignment]
            self._combine()
        elif "clear" in order:
            self._conditions.pop(order["clear"], None)  # type: ignore[call-overload]
            self._combine()
        return {
            "ports": [
                {"plugged": port.connection is not None, "received": port.received, "sent": port.sent}
                for port in self.ports
            ],
            "lost": [[*pair, frames] for pair, frames in self._lost.items()],
            "conditions": list(self._conditions),
        }

    def _combine(self) -> None:
        """Combine the conditions of each way; a delayed frame keeps its arrival time, or is dropped by a cut."""
        found: dict[tuple[int, int], list[dict[str, float]]] = {}
        for pairs, condition in self._conditions.values():
            for source, target in pairs:
                found.setdefault((source, target), []).append(condition)
        self._ways = {pair: Way(conditions) for pair, conditions in found.items()}


class Client:
    """A connection that sends orders."""

    def __init__(self, switch: Switch, connection: socket.socket) -> None:
        self._switch = switch
        self._connection = connection
        self._rest = b""
        switch.selector.register(connection, selectors.EVENT_READ, self.ready)

    def ready(self, _: int) -> None:
        """Carry out the orders that have come."""
        try:
            data = self._connection.recv(READ)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._connection.sendall(json.dumps(self._switch.order(json.loads(line))).encode() + b"\n")
        except (OSError, LookupError, RecursionError, TypeError, ValueError):  # it has ended, or the order is invalid
            data = b""
        if not data:
            self._switch.selector.unregister(self._connection)
            self._connection.close()


def main() -> None:
    """Run the switch on the sockets whose descriptors are on the command line."""
    control, *listeners = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    Switch(control, listeners).run()


if __name__ == "__main__":
    main()
