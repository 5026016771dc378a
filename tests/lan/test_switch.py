"""The switch: a real process, with sockets in the place of the nodes' QEMUs."""

from __future__ import annotations

import os
import statistics
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_pidoc.errors import FaultError
from pytest_pidoc.host import processes, sockets
from pytest_pidoc.lan.lan import Condition, Lan, address
from pytest_pidoc.values.files import LAN_SOCKET

NAMES = ("pi-1", "pi-2", "pi-3")
BROADCAST = b"\xff" * 6


def mac(number: int) -> bytes:
    return bytes([0x52, 0x54, 0, 0, 0, number])


class Card:
    """A network card as QEMU's ``-netdev stream`` has it."""

    def __init__(self, path: Path, number: int) -> None:
        self.mac = mac(number)
        self.connection = sockets.connect(path, timeout=5)

    def send(self, to: bytes, payload: bytes = b"") -> None:
        self.connection.sendall(self.frame(to, payload))

    def frame(self, to: bytes, payload: bytes) -> bytes:
        frame = to + self.mac + b"\x08\x00" + payload
        return struct.pack(">I", len(frame)) + frame

    def receive(self, timeout: float = 5) -> bytes | None:
        """Return the payload of the next frame, or ``None`` if none comes."""
        self.connection.settimeout(timeout)
        try:
            (size,) = struct.unpack(">I", self._read(4))
        except TimeoutError:
            return None
        return self._read(size)[14:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.connection.recv(size - len(data))
        return data


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    directory = tmp_path / "c-00000000"
    for name in NAMES:
        (directory / name).mkdir(parents=True)
    lan, child = Lan.start(directory, NAMES)
    yield lan
    child.kill()
    child.wait()


@pytest.fixture
def cards(lan: Lan, tmp_path: Path) -> Iterator[list[Card]]:
    """Three cards whose addresses the switch has learned."""
    cards = [Card(tmp_path / "c-00000000" / name / LAN_SOCKET, number) for number, name in enumerate(NAMES, 1)]
    for card in cards:
        card.send(BROADCAST, b"hello")
        assert [other.receive() for other in cards if other is not card] == [b"hello", b"hello"]
    yield cards
    for card in cards:
        card.connection.close()


def each_way(*pairs: tuple[int, int]) -> list[tuple[str, str]]:
    return [(f"pi-{one}", f"pi-{other}") for pair in pairs for one, other in (pair, pair[::-1])]


def test_addresses_are_the_nodes_numbers() -> None:
    assert [address(1), address(250)] == ["192.168.77.1", "192.168.77.250"]


def test_frame_goes_where_its_address_is(cards: list[Card]) -> None:
    cards[0].send(mac(3), b"to the third")
    cards[0].send(mac(2), b"to the second")

    assert cards[1].receive() == b"to the second"
    assert cards[2].receive() == b"to the third"


def test_unknown_address_and_multicast_go_everywhere(cards: list[Card]) -> None:
    for to in (mac(9), b"\x01\x00\x5e\x00\x00\xfb"):
        cards[1].send(to, b"who is it")

        assert [cards[0].receive(), cards[2].receive()] == [b"who is it"] * 2


def test_frames_in_one_piece_and_in_many(cards: list[Card]) -> None:
    """A stream has no borders: frames to different nodes in one write, and one frame in three writes."""
    cards[0].connection.sendall(b"".join(cards[0].frame(mac(number), b"%d" % number) for number in (2, 3, 3, 2)))
    assert [cards[1].receive(), cards[1].receive()] == [b"2", b"2"]
    assert [cards[2].receive(), cards[2].receive()] == [b"3", b"3"]

    whole = cards[0].frame(mac(2), b"x" * 1000)
    for part in (whole[:2], whole[2:12], whole[12:]):
        cards[0].connection.sendall(part)
        time.sleep(0.02)
    assert cards[1].receive() == b"x" * 1000


def test_cut_holds_until_it_is_cleared(lan: Lan, cards: list[Card]) -> None:
    lan.set("cut", each_way((1, 2)), Condition(cut=True))
    cards[0].send(mac(2), b"lost")
    cards[0].send(BROADCAST, b"for the third")
    assert cards[2].receive() == b"for the third"
    assert lan.lost() == {("pi-1", "pi-2"): 2}

    lan.clear("cut")
    cards[0].send(mac(2), b"here again")

    assert cards[1].receive() == b"here again"


def test_delay_and_jitter(lan: Lan, cards: list[Card]) -> None:
    lan.set("slow", [("pi-1", "pi-2")], Condition(delay=0.1, jitter=0.02))
    took = []
    for _ in range(11):
        began = time.monotonic()
        cards[0].send(mac(2), b"late")
        assert cards[1].receive() == b"late"
        took.append(time.monotonic() - began)
        cards[1].send(mac(1), b"at once")
        assert cards[0].receive(0.5) == b"at once"

    assert min(took) >= 0.08
    assert 0.08 <= statistics.median(took) <= 0.15


def test_loss_is_the_share_that_was_asked_for(lan: Lan, cards: list[Card]) -> None:
    lan.set("lossy", [("pi-1", "pi-2")], Condition(loss=0.1))
    for _ in range(2000):
        cards[0].send(mac(2), b"maybe")
    cards[0].send(mac(3), b"end")
    assert cards[2].receive() == b"end"

    lost = lan.lost()["pi-1", "pi-2"]

    assert 140 <= lost <= 260
    for _ in range(2000 - lost):
        assert cards[1].receive() == b"maybe"
    assert cards[1].receive(0.05) is None


def test_rate_is_the_limit(lan: Lan, cards: list[Card]) -> None:
    """Fifty frames of 1000 bytes at 1 Mbit/s take 0.4 s."""
    lan.set("narrow", [("pi-1", "pi-2")], Condition(rate=1_000_000))
    began = time.monotonic()
    for _ in range(50):
        cards[0].send(mac(2), b"x" * 986)
    for _ in range(50):
        assert cards[1].receive()

    assert 0.39 <= time.monotonic() - began <= 1.5


def test_conditions_add_up(lan: Lan, cards: list[Card]) -> None:
    """Two delays are one long one; when one is cleared, the other holds."""
    for name in ("one", "other"):
        lan.set(name, [("pi-1", "pi-2")], Condition(delay=0.1))
    began = time.monotonic()
    cards[0].send(mac(2), b"late")
    assert cards[1].receive()
    assert time.monotonic() - began >= 0.2

    lan.clear("one")
    took = []
    for _ in range(5):
        began = time.monotonic()
        cards[0].send(mac(2), b"late")
        assert cards[1].receive()
        took.append(time.monotonic() - began)

    assert 0.1 <= min(took) < 0.2  # this machine's other work may make some of them later


def test_frame_under_way_does_not_cross_a_cut(lan: Lan, cards: list[Card]) -> None:
    lan.set("slow", [("pi-1", "pi-2")], Condition(delay=0.2))
    cards[0].send(mac(2), b"under way")
    time.sleep(0.05)
    lan.set("cut", [("pi-1", "pi-2")], Condition(cut=True))

    assert cards[1].receive(0.4) is None


def test_node_that_reads_nothing_holds_up_nobody(cards: list[Card]) -> None:
    """What is sent to it beyond 4 MiB is dropped, and the others go on."""
    chunk = cards[0].frame(mac(2), b"x" * 1500) * 100
    for _ in range(60):  # 9 MB
        cards[0].connection.sendall(chunk)
    cards[0].send(mac(3), b"and you?")

    assert cards[2].receive() == b"and you?"


def test_card_that_is_plugged_in_again(lan: Lan, cards: list[Card], tmp_path: Path) -> None:
    """A node whose QEMU is started again takes its place, with its conditions."""
    lan.set("cut", each_way((2, 3)), Condition(cut=True))
    cards[1].connection.close()

    again = Card(tmp_path / "c-00000000" / "pi-2" / LAN_SOCKET, 2)
    again.send(mac(3), b"lost")
    again.send(mac(1), b"back")

    assert cards[0].receive() == b"back"
    assert cards[2].receive(0.1) is None
    again.connection.close()


def test_switch_that_was_killed_is_named(lan: Lan) -> None:
    pid = int(lan.handle.partition(":")[0])
    assert lan.alive
    processes.kill(lan.handle)
    os.waitpid(pid, 0)

    for call in (lambda: lan.clear("cut"), lan.raise_if_dead):
        with pytest.raises(FaultError, match=f"The network switch of c-00000000 \\(process {pid}\\) has ended"):
            call()


@pytest.mark.parametrize("order", [b"nonsense\n", b"[" * 100_000 + b"\n"], ids=["text", "nested"])
def test_nonsense_on_the_control_socket_harms_nobody(lan: Lan, cards: list[Card], tmp_path: Path, order: bytes) -> None:
    """An order that cannot be read ends its connection; the switch goes on passing frames."""
    with sockets.connect(tmp_path / "c-00000000" / "switch.sock", timeout=5) as connection:
        connection.sendall(order)
        assert connection.recv(100) == b""
    cards[0].send(mac(2), b"still here")

    assert cards[1].receive() == b"still here"
    assert lan.alive


def test_frame_without_end_closes_the_port(cards: list[Card]) -> None:
    """QEMU sends none longer than 68 KiB."""
    cards[0].connection.sendall(b"\xff\xff\xff\xff" + b"x" * 200_000)
    assert cards[0].connection.recv(10) == b""
    cards[1].send(mac(3), b"still here")

    assert cards[2].receive() == b"still here"


def test_switch_sees_nothing_but_its_sockets(lan: Lan, cards: list[Card]) -> None:
    """No descriptor of the process that started it, and none of another cluster's."""
    descriptors = Path("/proc", lan.handle.partition(":")[0], "fd")
    targets = [str(descriptor.readlink()) for descriptor in descriptors.iterdir()]

    assert sum(target.startswith("socket:") for target in targets) == 1 + 2 * len(cards)
    assert len(targets) == 1 + 2 * len(cards) + 4  # standard input and output, and what waits for all of them
