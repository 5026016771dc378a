"""The border around a guest: this machine's own services and the cloud's metadata are not for it.

Run as ``python -I -S guard.py QEMU ARGUMENTS...``, by a path of its own: in a container there is no pytest-pidoc.
QEMU's user network opens the guest's connections as its own, and so the guest reaches what QEMU reaches: by 10.0.2.2,
by any other address of that network and by 127.0.0.1 itself this machine's loopback interface. QEMU has no option
against that. So this program has the kernel ask before each ``connect`` and ``sendto`` of QEMU's (seccomp's user
notification, which needs no privilege), lets a copy of itself answer, and becomes QEMU.

That holds for whatever the guest does, root or not, since it does not happen in the guest. It is no border around a
QEMU that the guest has taken over: that could change the address after it was looked at.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys

# Each node's start waits for this program: what takes long to import is not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path
    from typing import NoReturn

__all__ = ["OPEN", "command", "missing", "place", "refused", "warn_if_open"]

#: What QEMU's log has when the kernel does not help, and the guest was started without the border.
OPEN = "pidoc-guard: the guest can reach this machine's own services"

#: What is refused, with why nobody means it. A name server of this machine's is reached all the same.
REFUSED = (
    "0.0.0.0/8",  # Linux takes 0.0.0.0 for the loopback interface
    "127.0.0.0/8",
    "169.254.0.0/16",  # the metadata address of most clouds, 169.254.169.254, is in it
    "100.100.100.200/32",  # Alibaba's
    "168.63.129.16/32",  # Azure's
    "::/127",  # as 0.0.0.0, and ::1
    "fe80::/10",
    "fd00:ec2::/32",  # Amazon's, fd00:ec2::254
    "fd20:ce::254/128",  # Google's
)
DNS = 53
MOST_LINES = 50  # of what was refused, in the log

# By the machine: AUDIT_ARCH_* of <linux/audit.h>, and the numbers of seccomp, connect and sendto.
_SYSTEMS = {"x86_64": (0xC000003E, 317, 42, 44), "aarch64": (0xC00000B7, 277, 203, 206)}

# <linux/seccomp.h>, <linux/prctl.h>, <linux/bpf_common.h>
SET_MODE_FILTER = 1
# Without the second flag older kernels make QEMU slower, against attacks from code within it.
FLAGS = 1 << 3 | 1 << 2  # NEW_LISTENER, SPEC_ALLOW
ALLOW, ASK = 0x7FFF0000, 0x7FC00000
RECEIVE, ANSWER = 0xC0502100, 0xC0182101
CONTINUE = 1
SIGKILL, ENETUNREACH, AF_INET, AF_INET6 = 9, 101, 2, 10
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 1, 15, 38
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
LEAST_KERNEL = (5, 5)  # the first that can be told to go on with a call

libc = ctypes.CDLL(None, use_errno=True)


def command(qemu: list[str], *, python: str = sys.executable, script: str = __file__) -> list[str]:
    """Return the command that runs the command *qemu* within the border."""
    return [python, "-I", "-S", script, *qemu]


def missing() -> str | None:
    """Put up a border around nothing; return what it lacks, or ``None`` if it would hold."""
    import subprocess

    done = subprocess.run(command([sys.executable, "-I", "-S", "-c", ""]), capture_output=True, text=True, check=False)
    return None if done.returncode == 0 and not done.stderr else done.stderr.strip().removeprefix(f"{OPEN}: ")


def warn_if_open(log: Path) -> None:
    """Warn if QEMU's log says that there is no border."""
    import warnings

    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(OPEN):
            warnings.warn(line, RuntimeWarning, stacklevel=2)
            return


def place(address: bytes) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Return the IP address and the port in a ``sockaddr``; ``None`` if it is of another family."""
    family, port = int.from_bytes(address[:2], sys.byteorder), int.from_bytes(address[2:4], "big")
    if family not in (AF_INET, AF_INET6):
        return None
    import ipaddress  # the guest's first connection is soon enough for it

    if family == AF_INET:
        return ipaddress.IPv4Address(address[4:8].ljust(4, b"\0")), port
    found = ipaddress.IPv6Address(address[8:24].ljust(16, b"\0"))
    return found.ipv4_mapped or found, port


def refused(address: IPv4Address | IPv6Address, port: int, resolvers: frozenset[str] = frozenset()) -> bool:
    """Tell whether a guest may not reach a port of an address.

    Parameters
    ----------
    address, port
        Where it wants to go, as QEMU sees it.
    resolvers
        The name servers of this machine. QEMU asks them for the guest, and they are often on 127.0.0.53.
    """
    import ipaddress

    if port == DNS and str(address) in resolvers:
        return False
    return any(address in ipaddress.ip_network(network) for network in REFUSED)


def main() -> NoReturn:
    """Run QEMU within the border, and end as it does."""
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
    """Raise `OSError` if it is known that the kernel cannot do it."""
    system = os.uname()
    if system.machine not in _SYSTEMS:
        raise OSError(f"it is not known how to prevent that on {system.machine}")
    if _numbers(system.release) < LEAST_KERNEL:
        raise OSError(f"Linux {system.release} is too old to prevent that")


def _sees(qemu: int) -> bool:
    """Tell whether this process may look into that one, where the addresses are."""
    sample = ctypes.create_string_buffer(b"pidoc")  # at its place here, which after a fork is another's, too
    try:
        _memory(qemu, ctypes.addressof(sample), 1)
    except OSError as error:
        _say(f"{OPEN}: the memory of QEMU cannot be read ({error.strerror})")
        return False
    return True


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])


def _listen(architecture: int, seccomp: int, connect: int, sendto: int) -> int:
    """Install the filter and return the descriptor on which the kernel asks."""
    # struct seccomp_data: the call's number at 0, the architecture at 4, the arguments of 8 bytes from 16 on.
    address = 16 + 8 * 4  # of sendto; what is sent through a connection has none, and is not asked about
    program = (
        (LOAD, 0, 0, 4),
        (EQUAL, 0, 8, architecture),
        (LOAD, 0, 0, 0),
        (EQUAL, 5, 0, connect),
        (EQUAL, 0, 5, sendto),
        (LOAD, 0, 0, address),
        (EQUAL, 0, 2, 0),
        (LOAD, 0, 0, address + 4),
        (EQUAL, 1, 0, 0),
        (RETURN, 0, 0, ASK),
        (RETURN, 0, 0, ALLOW),
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
    """Answer the kernel for as long as QEMU lives."""
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
                _say(f"pidoc-guard: without host_access the guest may not reach {refusal}")
            # struct seccomp_notif_resp
            answer = struct.pack("QqiI", number, 0, *((-ENETUNREACH, 0) if refusal else (0, CONTINUE)))
            fcntl.ioctl(listener, ANSWER, answer)
        except FileNotFoundError:  # the call was interrupted, and comes again
            continue


def _refusal(thread: int, call: bytes) -> str:
    """Return where a call leads if it is to be refused: ``127.0.0.1 port 22``."""
    (number,) = struct.unpack_from("i", call)
    arguments = struct.unpack_from("6Q", call, 16)
    connects = number == _SYSTEMS[os.uname().machine][2]
    start, size = arguments[1:3] if connects else arguments[4:6]
    try:
        found = place(_memory(thread, start, min(size, 128)))
    except OSError as error:
        return f"what cannot be looked at ({error.strerror})"
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
    """Return this machine's name servers, as QEMU's user network finds them."""
    try:
        found = [line.split() for line in _read("/etc/resolv.conf").splitlines() if line.startswith("nameserver")]
    except OSError:
        return frozenset()
    return frozenset(words[1].partition("%")[0] for words in found if len(words) > 1)


def _is_forward(thread: int, descriptor: int) -> bool:
    """Tell whether a UDP socket is one of a forwarded port, through which a guest answers to this machine.

    Only those are bound to 127.0.0.1.
    """
    try:
        inode = os.readlink(f"/proc/{thread}/fd/{descriptor}").strip("socket:[]")  # noqa: PTH115 # as in _read
        sockets = [line.split() for line in _read(f"/proc/{thread}/net/udp").splitlines()]
    except OSError:
        return False
    return any(fields[9] == inode and fields[1].startswith("0100007F:") for fields in sockets)


def _read(path: str) -> str:
    """Return a file's text, without a class for paths, which would take longer to import than all the rest."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b"")).decode(errors="replace")
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
