"""Runs in a guest, as ``python3 -c``: run a command several times, and print what each run cost. Python 3.7 is enough.

The argument is JSON: ``command``, ``setup`` (or null), ``rounds``, ``events``. Each round prints a line
``pidoc-begin PID`` just before the command starts, ``pidoc-end`` when it has ended, so that who reads them has the time
between, and ``pidoc-round JSON``.

Linux's performance events count: of the command and all its children, from its ``exec`` on, and of nobody else.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
TAIL = 4000  # bytes of what the command printed

# From linux/perf_event.h; the type comes first.
INSTRUCTIONS = (0, 1)
TASK_CLOCK = (1, 1)
DISABLED, INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR, ENABLE_ON_EXEC = 1 << 0, 1 << 1, 1 << 5, 1 << 6, 1 << 12
EVENTS = (
    ("instructions", INSTRUCTIONS, EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR),
    ("guest_time", TASK_CLOCK, 0),
)
SIZE = 112  # of struct perf_event_attr
CLOSE_ON_EXEC = 8
OPEN = {"aarch64": 241, "x86_64": 298}  # the number of the system call; ARM with 32 bits has 364
NO_RANDOMIZE = 0x0040000  # from linux/personality.h: addresses are the same in each run

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the rounds."""
    asked = json.loads(sys.argv[1])
    allow()
    for _ in range(asked["rounds"]):
        if asked["setup"] is not None:
            done = subprocess.run(
                ["sh", "-c", asked["setup"]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                said = done.stdout[-TAIL:].decode(errors="replace")
                say("pidoc-round", json.dumps({"step": "setup", "status": done.returncode, "output": said}))
                return
        answer = measure(asked["command"], EVENTS if asked["events"] else ())
        say("pidoc-round", json.dumps(answer))
        if answer["status"]:
            return


def allow() -> None:
    """Allow counting for users other than root: Debian's kernel does not by default."""
    try:
        if int(PARANOID.read_text()) <= 1 or os.geteuid() == 0:
            return
    except (OSError, ValueError):
        return
    subprocess.run(
        ["sudo", "-n", "sh", "-c", f"echo 1 > {PARANOID}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def measure(command: str, wanted: tuple[tuple[str, tuple[int, int], int], ...]) -> dict[str, Any]:
    """Run a command once, and return what it cost."""
    program = digest(command)
    ready, go = os.pipe()
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            become(command, ready, go, output.fileno())
        os.close(ready)
        events: dict[str, int] = {}
        refused = ""
        for name, event, flags in wanted:
            number = open_event(event, child, flags | DISABLED | INHERIT | ENABLE_ON_EXEC)
            if number < 0:
                code = ctypes.get_errno()
                refused += f"{name}: {os.strerror(code)} ({errno.errorcode.get(code, code)}). "
            else:
                events[name] = number
        say("pidoc-begin", str(child))
        began = time.monotonic_ns()
        os.close(go)  # the child reads the end of the pipe
        _, status, usage = os.wait4(child, 0)
        elapsed = time.monotonic_ns() - began
        say("pidoc-end")
        counts = {name: read_event(number) for name, number in events.items()}
        clock = counts.get("guest_time")
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - TAIL))
        return {
            "step": "command",
            "status": -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status),
            "output": output.read().decode(errors="replace"),
            "instructions": counts.get("instructions"),
            "guest_time": None if clock is None else clock / 1e9,
            "virtual_time": elapsed / 1e9,
            "processor_time": usage.ru_utime + usage.ru_stime,  # of the child before its exec, too
            "refused": refused,
            "program": program,
        }


def become(command: str, ready: int, go: int, output: int) -> None:
    """Turn the child into the command's shell, as soon as the parent counts."""
    try:
        os.close(go)
        os.setsid()  # so that all of it can be ended
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        libc.personality(NO_RANDOMIZE)
        # Where a Python program's names are in its dictionaries made 8 % of one program's instructions.
        os.environ.setdefault("PYTHONHASHSEED", "0")
        os.read(ready, 1)
        os.execvp("sh", ["sh", "-c", command])  # noqa: S606
    finally:
        os._exit(127)


def open_event(event: tuple[int, int], process: int, flags: int) -> int:
    """Return the number of an open file that counts, or -1 with the reason in errno."""
    both_times = 3  # how long it was to count, and how long it did
    attributes = struct.pack("=IIQQQQQ", event[0], SIZE, event[1], 0, 0, both_times, flags).ljust(SIZE, b"\0")
    call = OPEN.get(platform.machine(), 364)
    structure = ctypes.create_string_buffer(attributes, SIZE)
    return int(libc.syscall(call, structure, process, -1, -1, CLOSE_ON_EXEC))


def read_event(number: int) -> int | None:
    """Return what an event has counted, and close it."""
    value: int
    value, wanted, counted = struct.unpack("=QQQ", os.read(number, 24))
    os.close(number)
    return value if wanted == counted else None  # the event shared its counter with others: a part is missing


def digest(command: str) -> str | None:
    """Return the SHA-256 of the file that the command's first word names; None if that is not a file."""
    try:
        path = shutil.which(shlex.split(command)[0])
        return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()
    except (OSError, ValueError, IndexError):
        return None


def say(*words: str) -> None:
    """Print a line immediately."""
    print(*words, flush=True)


if __name__ == "__main__":
    main()
