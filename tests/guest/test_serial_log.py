"""The serial log: its end as text, and signs of a guest that gave up."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.guest.serial_log import SerialLog


@pytest.fixture
def log(tmp_path: Path) -> SerialLog:
    return SerialLog(tmp_path / "serial.log")


def test_no_log_yet_is_empty(log: SerialLog) -> None:
    """Before QEMU runs there is nothing, and that is no error."""
    assert (log.read(), log.size(), log.tail(), log.panic()) == (b"", 0, "", None)


def test_read_from_an_offset(log: SerialLog) -> None:
    """Reading can go on where it ended."""
    log.path.write_bytes(b"before\nafter\n")

    assert log.read(start=7) == b"after\n"


def test_read_past_the_end_is_empty(log: SerialLog) -> None:
    """An offset behind the end is no error."""
    log.path.write_bytes(b"short")

    assert log.read(start=100) == b""


def test_size_is_in_bytes(log: SerialLog) -> None:
    """The size is what an offset counts."""
    log.path.write_bytes("Grüße".encode())

    assert log.size() == 7


def test_tail_is_the_last_lines(log: SerialLog) -> None:
    """Of a long log, the last lines are shown."""
    log.path.write_bytes(b"".join(b"line %d\r\n" % number for number in range(1000)))

    assert log.tail(3) == "line 997\nline 998\nline 999"


def test_tail_shows_a_line_without_its_end(log: SerialLog) -> None:
    """A prompt, which ends no line, is the best evidence of all."""
    log.path.write_bytes(b"Debian GNU/Linux\r\n\r\npi-1 login: ")

    assert log.tail() == "Debian GNU/Linux\npi-1 login:"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1b[0;32m  OK  \x1b[0m started",
        b"\x1b[2J\x1b[1;1H  OK   started",
        b"\x1b[?25l  OK   started\x1b[?25h",
        b"\x1b]0;title\x07  OK   started",
        b"\x1b]0;title\x1b\\  OK   started",
        b"\x1bc  OK   started\x07",
        b"\x00  OK   started\x7f\r",
    ],
)
def test_tail_has_no_terminal_control(log: SerialLog, raw: bytes) -> None:
    """Colours, cursor movements and titles are left out of a report."""
    log.path.write_bytes(raw + b"\r\n")

    assert log.tail() == "  OK   started"


def test_tail_of_a_line_without_end(log: SerialLog) -> None:
    """A guest that prints megabytes without a line end does not flood the report."""
    log.path.write_bytes(b"x" * 1_000_000)

    assert 0 < len(log.tail(20)) <= 8000


@given(st.binary(max_size=500))
def test_tail_of_any_bytes_is_plain_text(raw: bytes) -> None:
    """Whatever a guest prints, the tail can be printed on a terminal, and has no empty line."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(raw)
        tail = SerialLog(Path(file.name)).tail(5)
    assert "\x1b" not in tail
    assert not any(ord(character) < 32 and character not in "\n\t" for character in tail)
    assert all(line.strip() for line in tail.split("\n")) or not tail
    assert len(tail.splitlines()) <= 5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b"[    2.1] Kernel panic - not syncing: Attempted to kill init!",
            "Kernel panic - not syncing: Attempted to kill init!",
        ),
        (
            b"VFS: Unable to mount root fs on unknown-block(0,0)",
            "VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        (b"pidoc: no root device /dev/vda", "pidoc: no root device /dev/vda"),
        (b"ALERT!  /dev/mmcblk0p2 does not exist.  Dropping to a shell!", "ALERT!  /dev/mmcblk0p2 does not exist"),
    ],
)
def test_panic_is_the_line_in_which_the_guest_gave_up(log: SerialLog, line: bytes, expected: str) -> None:
    """What a kernel, our initrd or Debian's says when there is no way on, is found."""
    log.path.write_bytes(b"booting\r\n" + line + b"\r\nCPU: 0 PID: 1\r\n")

    assert log.panic() == expected


@pytest.mark.parametrize(
    "text",
    [
        b"Starting panic handler\r\n",
        b"Kernel command line: panic=5 root=/dev/vda\r\n",
        b"kernel panic test passed\r\n",
        b"",
    ],
)
def test_a_word_is_no_panic(log: SerialLog, text: bytes) -> None:
    """A log that only speaks of panics has none."""
    log.path.write_bytes(text)

    assert log.panic() is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'You are in emergency mode. After logging in, type "journalctl -xb" to view', "You are in emergency mode"),
        (
            b"Cannot open access to console, the root account is locked.",
            "Cannot open access to console, the root account is locked",
        ),
        (b"[    1.174586] systemd[1]: Freezing execution.", "Freezing execution"),
        (b"[  OK  ] Reached target emergency.target.", None),
    ],
)
def test_systemd_that_gives_up(log: SerialLog, line: bytes, words: str | None) -> None:
    """It says that it goes no further; a new boot is another matter."""
    log.path.write_bytes(b"booting\r\n" + line + b"\r\nPress Enter to continue.\r\n")
    assert log.systemd_gave_up() == words

    with log.path.open("ab") as stream:
        stream.write(b"[    0.0] Booting Linux on physical CPU 0x0\r\n")
    assert log.systemd_gave_up() is None


def test_root_device_for_which_the_kernel_waits(log: SerialLog) -> None:
    """It is named until it has come."""
    assert log.awaited_root() is None
    log.path.write_bytes(b"[    1.3] Waiting for root device /dev/mmcblk0p2...\r\n[    1.4] mmcblk3: p1 p2\r\n")
    assert log.awaited_root() == "/dev/mmcblk0p2"

    with log.path.open("ab") as stream:
        stream.write(b"[    1.9] VFS: Mounted root (ext4 filesystem) on device 179:2.\r\n")
    assert log.awaited_root() is None


def test_panic_of_a_former_boot_is_not_this_ones(log: SerialLog) -> None:
    """The look can begin where the last power-on was."""
    log.path.write_bytes(b"Kernel panic - not syncing: old\r\n")
    start = log.size()
    with log.path.open("ab") as stream:
        stream.write(b"booting again\r\n")

    assert log.panic(start=start) is None
    assert log.panic() == "Kernel panic - not syncing: old"
