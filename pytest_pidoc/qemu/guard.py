"""Host isolation: keeps a guest away from services on the host's loopback interface and from the cloud's metadata.

Run as ``python -I -S guard.py QEMU ARGUMENTS...``, from its path: a container has no pytest-pidoc installed.
QEMU's user network opens the guest's connections as its own, and so the guest reaches what QEMU reaches: by 10.0.2.2,
by any other address of that network and by 127.0.0.1 itself the host's loopback interface. QEMU has no option against
that. So this program tells the kernel to ask before each ``connect`` and ``sendto`` of QEMU's (seccomp's user
notification, which needs no privilege), lets a copy of itself answer, and becomes QEMU.

The check runs outside of the guest, so that root in the guest cannot switch it off. It does not isolate a QEMU that
the guest has taken over: that could change the address after the check.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys

# Each node's start waits for this program, so slow imports are avoided.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path
    from typing import NoReturn

__all__ = ["OPEN", "command", "place", "refused", "warn_if_open", "why_open"]

#: The line in QEMU's log if the kernel lacks a feature, so that the guest was started without isolation.
OPEN = "pidoc-guard: the guest can reach services on 127.0.0.1 of the host"

#: The addresses that are refused. The host's name servers stay reachable.
REFUSED = (
    "0.0.0.0/8",  # Linux takes 0.0.0.0 for the loopback interface
    "127.0.0.0/8",
    "169.254.0.0/16",  # the metadata address of most clouds, 169.254.169.254, is in it
    "100.100.100.200/32",  # Alibaba's
    "168.63.129.16/32",  # Azure's
    "::/127",  # like 0.0.0.0, and ::1
    "fe80::/10",
    "fd00:ec2::/32",  # Amazon's, fd00:ec2::254
    "fd20:ce::254/128",  # Google's
)
DNS = 53
MOST_LINES = 50  # about refused connections, in the log

# By the machine: AUDIT_ARCH_* of <linux/audit.h>, and the numbers of seccomp, connect and sendto.
_SYSTEMS = {"x86_64": (0xC000003E, 317, 42, 44), "aarch64": (0xC00000B7, 277, 203, 206)}

# <linux/seccomp.h>, <linux/prctl.h>, <linux/bpf_common.h>
SET_MODE_FILTER = 1
# Without the second flag, older kernels slow QEMU down by mitigations against code that runs in it.
FLAGS = 1 << 3 | 1 << 2  # NEW_LISTENER, SPEC_ALLOW
ALLOW, ASK = 0x7FFF0000, 0x7FC00000
RECEIVE, ANSWER = 0xC0502100, 0xC0182101
CONTINUE = 1
SIGKILL, ENETUNREACH, AF_INET, AF_INET6 = 9, 101, 2, 10
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 1, 15, 38
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
LEAST_KERNEL = (5, 5)  # the first that can continue a call after asking

libc = ctypes.CDLL(None, use_errno=True)


def command(qemu: list[str], *, python: str = sys.executable, script: str = __file__) -> list[str]:
    """Return the command that runs the command *qemu* with host isolation."""
    return [python, "-I", "-S", script, *qemu]


def why_open() -> str | None:
    """Return why this host cannot isolate itself from guests, or ``None`` if it can: an empty program tries it."""
    import subprocess

    done = subprocess.run(command([sys.executable, "-I", "-S", "-c", ""]), capture_output=True, text=True, check=False)
    return None if done.returncode == 0 and not done.stderr else done.stderr.strip().removeprefix(f"{OPEN}: ")


def warn_if_open(log: Path) -> None:
    """Warn if QEMU's log says that the guest runs without isolation."""
    import warnings

    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(OPEN):
            warnings.warn(f"{line}. Try: use --pidoc-internet=no", RuntimeWarning, stacklevel=2)
            return


def place(address: bytes) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Return the IP address and the port in a ``sockaddr``; ``None`` if it is of another family."""
    family, port = int.from_bytes(address[:2], sys.byteorder), int.from_bytes(address[2:4], "big")
    if family not in (AF_INET, AF_INET6):
        return None
    import ipaddress  # imported only for the guest's first connection

    if family == AF_INET:
        return ipaddress.IPv4Address(address[4:8].ljust(4, b"\0")), port
    found = ipaddress.IPv6Address(address[8:24].ljust(16, b"\0"))
    return found.ipv4_mapped or found, port


def refused(address: IPv4Address | IPv6Address, port: int, resolvers: frozenset[str] = frozenset()) -> bool:
    """Tell whether a guest's connection to a port of an address is refused.

    Parameters
    ----------
    address, port
        The destination, as QEMU sees it.
    resolvers
        The host's name servers. QEMU asks them for the guest, and they are often on 127.0.0.53.
    """
    import ipaddress

    if port == DNS and str(address) in resolvers:
        return False
    return any(address in ipaddress.ip_network(network) for network in REFUSED)


def main() -> NoReturn:
    """Run QEMU with host isolation, and exit with its status."""
    try:
        _require_system()
        _call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        listener = _listen(*_SYSTEMS[os.uname().machine])
    except OSError as error:
        _say(f"{OPEN}: {error.strerror or error}")
        _become(sys.argv[1:])
    guard = os.getpid()
    may_start, start = os.pipe()
    qemu = os.fork()
    if qemu == 0:
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(1)
        os.read(may_start, 1)
        _become(sys.argv[1:])
    libc.prctl(PR_SET_NAME, b"pidoc-guard", 0, 0, 0)
    sees = _sees(qemu)
    os.write(start, b"!")
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os.kill(qemu, SIGKILL))
    _answer(listener, qemu, allow_all=not sees)
    _, status = os.waitpid(qemu, 0)
    if os.WIFSIGNALED(status):
        os.kill(guard, os.WTERMSIG(status))
    sys.exit(os.waitstatus_to_exitcode(status) % 256)


def _become(program: list[str]) -> NoReturn:
    try:
        os.execvp(program[0], program)  # noqa: S606 # no shell is wanted
    except OSError as error:
        _say(f"pidoc-guard: {program[0]}: {error.strerror}")
        os._exit(127)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _require_system() -> None:
    """Raise `OSError` if the kernel is known not to support it."""
    system = os.uname()
    if system.machine not in _SYSTEMS:
        raise OSError(f"host isolation does not support {system.machine} hosts")
    if _numbers(system.release) < LEAST_KERNEL:
        raise OSError(
            f"host isolation requires Linux {'.'.join(map(str, LEAST_KERNEL))} or newer, not {system.release}"
        )


def _sees(qemu: int) -> bool:
    """Tell whether this process can read QEMU's memory, which holds the addresses."""
    sample = ctypes.create_string_buffer(b"pidoc")  # after a fork it has the same address in QEMU's process
    try:
        _memory(qemu, ctypes.addressof(sample), 1)
    except OSError as error:
        _say(f"{OPEN}: host isolation cannot read the memory of QEMU ({error.strerror})")
        return False
    return True


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])


def _listen(architecture: int, seccomp: int, connect: int, sendto: int) -> int:
    """Install the filter and return the descriptor on which the kernel asks about calls."""
    # struct seccomp_data: the call's number at 0, the architecture at 4, the arguments of 8 bytes from 16 on.
    number, arch = 0, 4
    address = 16 + 8 * 4  # sendto's fifth argument: null for a connected socket, whose connect was asked about before
    # An instruction: what it does, how many of the next to skip if equal and if not, and its value.
    program = (
        (LOAD, 0, 0, arch),  # 0: the architecture of the call
        (EQUAL, 0, 8, architecture),  # 1: another one (a 32-bit call, which QEMU never makes): go to 10
        (LOAD, 0, 0, number),  # 2: the number of the call
        (EQUAL, 5, 0, connect),  # 3: connect: go to 9
        (EQUAL, 0, 5, sendto),  # 4: neither connect nor sendto: go to 10
        (LOAD, 0, 0, address),  # 5: sendto: one half of its pointer to an address
        (EQUAL, 0, 2, 0),  # 6: not null, so it has an address: go to 9
        (LOAD, 0, 0, address + 4),  # 7: the other half of the pointer
        (EQUAL, 1, 0, 0),  # 8: both are null: go to 10
        (RETURN, 0, 0, ASK),  # 9: ask our process about the call
        (RETURN, 0, 0, ALLOW),  # 10: let the call pass
    )
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filtering = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(buffer)))
    return _call(
        libc.syscall, *(ctypes.c_long(value) for value in (seccomp, SET_MODE_FILTER, FLAGS)), ctypes.byref(filtering)
    )


def _call(function: Callable[..., int], *arguments: object) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _answer(listener: int, qemu: int, *, allow_all: bool) -> None:
    """Answer the kernel's questions until QEMU has ended."""
    told: set[str] = set()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(os.pidfd_open(qemu), select.POLLIN)
    while all(descriptor == listener for descriptor, _ in poll.poll()):
        question = bytearray(80)  # struct seccomp_notif
        try:
            fcntl.ioctl(listener, RECEIVE, question)
            number, thread = struct.unpack_from("QI", question)
            refusal = "" if allow_all else _refusal(thread, bytes(question[16:]))
            if refusal and refusal not in told and len(told) < MOST_LINES:
                told.add(refusal)
                _say(f"pidoc-guard: refused a connection of the guest to {refusal}; host_access=True allows it")
            # struct seccomp_notif_resp
            answer = struct.pack("QqiI", number, 0, *((-ENETUNREACH, 0) if refusal else (0, CONTINUE)))
            fcntl.ioctl(listener, ANSWER, answer)
        except FileNotFoundError:  # the call was interrupted, and comes again
            continue


def _refusal(thread: int, call: bytes) -> str:
    """Return the destination of a call that must be refused, as ``127.0.0.1 port 22``; else an empty string."""
    (number,) = struct.unpack_from("i", call)
    arguments = struct.unpack_from("6Q", call, 16)
    connects = number == _SYSTEMS[os.uname().machine][2]
    start, size = arguments[1:3] if connects else arguments[4:6]
    try:
        found = place(_memory(thread, start, min(size, 128)))
    except OSError as error:
        return f"an address that cannot be read ({error.strerror})"
    if found is None or not refused(*found, _resolvers() if found[1] == DNS else frozenset()):
        return ""
    if not connects and _is_forward(thread, arguments[0]):
        return ""
    return "{} port {}".format(*found)


def _memory(process: int, start: int, size: int) -> bytes:
    descriptor = os.open(f"/proc/{process}/mem", os.O_RDONLY)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def _resolvers() -> frozenset[str]:
    """Return the host's name servers, as QEMU's user network finds them."""
    try:
        found = [line.split() for line in _read("/etc/resolv.conf").splitlines() if line.startswith("nameserver")]
    except OSError:
        return frozenset()
    return frozenset(words[1].partition("%")[0] for words in found if len(words) > 1)


def _is_forward(thread: int, descriptor: int) -> bool:
    """Tell whether a UDP socket is one of a forwarded port, through which a guest answers to the host.

    Only those are bound to 127.0.0.1.
    """
    try:
        inode = os.readlink(f"/proc/{thread}/fd/{descriptor}").strip("socket:[]")  # noqa: PTH115 # as in _read
        sockets = [line.split() for line in _read(f"/proc/{thread}/net/udp").splitlines()]
    except OSError:
        return False
    return any(fields[9] == inode and fields[1].startswith("0100007F:") for fields in sockets)


def _read(path: str) -> str:
    """Return a file's text, without ``pathlib``, which would take longer to import than everything else."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b"")).decode(errors="replace")
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
