"""The events that a real QEMU writes to a file, and files that are not whole."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from support import eventually

from pytest_pidoc.qemu import events
from pytest_pidoc.qemu.monitor import Monitor

if TYPE_CHECKING:
    from pathlib import Path

RESET = b'{"timestamp": {"seconds": 17, "microseconds": 500000}, "event": "RESET", "data": {"guest": true}}\n'


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="QEMU is not installed")
def test_qemu_writes_its_events(short_path: Path) -> None:
    """Whoever is connected to its monitor, and nothing from before it was started."""
    (short_path / "events.out").write_bytes(RESET)
    events.prepare(short_path)
    command = ["qemu-system-aarch64", "-M", "virt", "-S", "-nodefaults", "-display", "none", *events.arguments()]
    process = subprocess.Popen([*command, "-qmp", "unix:qmp.sock,server=on,wait=off"], cwd=short_path)
    log, seen = events.EventLog(short_path), []
    try:
        with Monitor.connect(short_path / "qmp.sock") as monitor:
            monitor.execute("cont")
            monitor.execute("system_reset")
            eventually(lambda: seen.extend(log.new()) or [each.name for each in seen] == ["RESUME", "RESET"])
    finally:
        process.kill()
        process.wait()

    assert [each.name for each in seen] == ["RESUME", "RESET"]
    assert seen[1].data == {"guest": False, "reason": "host-qmp-system-reset"}
    assert log.new() == []


def test_line_that_is_being_written_is_read_later(tmp_path: Path) -> None:
    """Half an event is none yet, and an event is told once."""
    log = events.EventLog(tmp_path)
    assert log.new() == []

    path = tmp_path / "events.out"
    path.write_bytes(b'{"QMP": {}}\n{"return": {}}\n' + RESET[:20])
    assert log.new() == []
    path.write_bytes(path.read_bytes() + RESET[20:])

    assert log.new() == [events.Event("RESET", 17.5, {"guest": True})]
    assert log.new() == []


@pytest.mark.parametrize("line", [b"", b"\0\xff", b"[]", b"7", b'{"event": "RESET"}', RESET.replace(b"17", b'"x"')])
def test_lines_that_are_no_events_are_passed_over(tmp_path: Path, line: bytes) -> None:
    """The file is QEMU's, and the next line counts all the same."""
    (tmp_path / "events.out").write_bytes(line + b"\n" + RESET)

    assert [event.at for event in events.EventLog(tmp_path).new()] == [17.5]
