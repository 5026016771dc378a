"""What can be chosen: one row for each setting, and what the marker and ``Cluster.up`` take of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_pidoc.values import inputs
from pytest_pidoc.values.checks import MOST_SECONDS
from pytest_pidoc.values.options import Option

__all__ = [
    "DEFAULT_IMAGE_PASSWORD",
    "DEFAULT_IMAGE_USER",
    "DEFAULT_MODEL",
    "FLAGS",
    "IMAGES_OWN",
    "MARKER",
    "MARKER_SIGNATURE",
    "MIB",
    "NO_FILE",
    "NUMBER",
    "OPTIONS",
    "REGISTRY_PREFIX",
    "signature",
]

DEFAULT_MODEL = "pi3-virt"
REGISTRY_PREFIX = "docker://"  # what the name of an image in a registry begins with, in the place of a URL's scheme
#: Of Raspberry Pi OS before 2022. Everybody knows them.
DEFAULT_IMAGE_USER, DEFAULT_IMAGE_PASSWORD = "pi", "raspberry"
NO_FILE = "none"  # for a part of an image that is to be left out
MOST_NODES = 250
NUMBER, IMAGES_OWN = "{n}", "{image}"  # in a host name
MIB = 1024**2
LEAST_MEMORY, MOST_MEMORY = 64 * MIB, 1024**2 * MIB

#: Millions of instructions that can be a second of the guest's: QEMU lets one take a power of two of nanoseconds.
MIPS = tuple(1000 / 2**shift for shift in range(7))
_MIPS_WANTED = f"a supported number of million instructions per second: {', '.join(f'{each:g}' for each in MIPS)}"


def _engine(value: object) -> str:
    return inputs.one_of(value, ("auto", "docker", "local"))


def _start(value: object) -> str:
    return inputs.one_of(value, ("warm", "cold"))


def _keep(value: object) -> str:
    return inputs.one_of(value, ("never", "on-failure", "always"))


def _workers(value: object) -> str:
    return inputs.one_of(value, ("shared", "own"))


def _model(value: object) -> str:
    from pytest_pidoc.machines import MODELS  # here, because the table takes as long as all other imports together

    return inputs.one_of(value, tuple(MODELS))


def _image(value: object) -> str:
    wanted = "an image such as debian:bookworm, raspios, a path, URL#sha256=HEX or docker://host/name:tag"
    return inputs.line(value, wanted)


def _image_user(value: object) -> str:
    name = inputs.line(value, "the name of a user")
    if name == "root" or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", name):
        raise ValueError("the name of a user other than root: at most 32 of A to Z, a to z, 0 to 9, _, . and -")
    return name


def _image_password(value: object) -> str:
    wanted = "a password: a text of 1 to 100 printable characters"
    if len(inputs.line(value, wanted)) > 100:
        raise ValueError(wanted)
    return str(value)  # with its spaces


def _file(value: object) -> str:
    return inputs.line(value, "a path or URL#sha256=<64 hex digits>")


def _append(value: object) -> str:
    return inputs.line(value, "kernel arguments such as 'quiet maxcpus=1'", least=0)


def _nodes(value: object) -> int:
    return inputs.whole(value, 1, MOST_NODES, f"a whole number from 1 to {MOST_NODES}")


def _memory(value: object) -> int:
    size = inputs.parse_size(value)
    if not LEAST_MEMORY <= size <= MOST_MEMORY or size % MIB:
        raise ValueError("a whole number of MiB from 64M to 1T, such as 512M or 1G")
    return size


def _cpus(value: object) -> float:
    return inputs.real(value, 0.01, 256, "a number of CPUs from 0.01 to 256")


def _mips(value: object) -> float:
    number = inputs.real(value, 0, 1000, _MIPS_WANTED)
    if number not in MIPS:
        raise ValueError(_MIPS_WANTED)
    return number


def _hostname(value: object) -> str:
    wanted = f"a host name such as octopi, with {NUMBER} for the node's number, or {IMAGES_OWN} for the image's own"
    name = inputs.line(value, wanted)
    if name != IMAGES_OWN and not re.fullmatch(
        r"[0-9A-Za-z]([0-9A-Za-z-]{0,58}[0-9A-Za-z])?", name.replace(NUMBER, "250")
    ):
        raise ValueError(wanted)
    return name


def _seconds(value: object) -> float:
    return inputs.real(value, 0.001, MOST_SECONDS, f"a number of seconds from 0.001 to {MOST_SECONDS:.0f}")


def _prepare(value: object, places: Sequence[Path], source: str) -> Any:
    from pytest_pidoc.steps import steps  # here, because most runs have none

    return steps.read(_split(value), places=places, source=source)


def _prepare_files(value: object, places: Sequence[Path], source: str) -> Any:
    from pytest_pidoc.steps.files import find_files

    return find_files(_split(value), places, source)


def _split(value: object) -> object:
    """Return the entries of a text with commas between them; anything else is returned as it is."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) and value else value


_FILE = "PATH|URL#sha256=HEX"

OPTIONS: tuple[Option, ...] = (
    Option(
        "nodes",
        _nodes,
        f"how many nodes to start: 1 to {MOST_NODES} (default: 1)",
        "N",
        "nodes",
        "how-to/several-nodes",
    ),
    Option(
        "model",
        _model,
        f"the emulated board, one of those that pidoc models lists (default: {DEFAULT_MODEL})",
        "MODEL",
        "guest",
        "reference/models",
    ),
    Option(
        "image",
        _image,
        "what nodes boot: debian[:RELEASE], raspios[:NAME], a path or URL#sha256=HEX of a disk image, docker://NAME:TAG",
        "IMAGE",
        "guest",
        "reference/images",
    ),
    Option(
        "engine",
        _engine,
        "what runs the nodes: docker, local (QEMU on the host), or auto (docker if its daemon answers, else local)",
        "auto|docker|local",
        "nodes",
        "how-to/engines",
    ),
    Option("memory", _memory, "RAM per node, such as 512M, in whole MiB (default: the model's)", "SIZE", "nodes"),
    Option(
        "cpus",
        _cpus,
        "limit each node to so many CPUs of the host, such as 0.5 (default: no limit)",
        "CPUS",
        "nodes",
        "how-to/cpu-limits",
    ),
    Option(
        "boot_timeout",
        _seconds,
        "seconds until all nodes must be ready (default: by the host's speed)",
        "SECONDS",
        "nodes",
        "explanation/timeouts",
    ),
    Option(
        "start",
        _start,
        "fork nodes from a saved state (warm) or boot each of them (cold)",
        "warm|cold",
        "nodes",
        "explanation/warm-start",
    ),
    Option("kernel", _file, "the kernel to boot instead of the image's own", _FILE, "guest"),
    Option("initrd", _file, "the initial RAM disk instead of the image's own; none: boot without one", _FILE, "guest"),
    Option("dtb", _file, "the device tree instead of the image's or QEMU's", _FILE, "guest"),
    Option(
        "image_user",
        _image_user,
        "the user of your own disk image, who can become root by sudo; on Raspberry Pi OS since 2022, the user to make "
        f"(default: {DEFAULT_IMAGE_USER})",
        "NAME",
        "guest",
        "how-to/raspberry-pi-os",
    ),
    Option(
        "image_password",
        _image_password,
        f"that user's password on the serial console (default: {DEFAULT_IMAGE_PASSWORD})",
        "PASSWORD",
        "guest",
        "how-to/raspberry-pi-os",
        secret=True,
    ),
    Option("append", _append, "kernel arguments to add to those of the model and the image", "ARGUMENTS", "guest"),
    Option(
        "announce_board",
        inputs.flag,
        "let the guest of a -virt model see the name of the board whose CPU it has",
        applies="nodes",
        page="how-to/announce-the-board",
        default=False,
    ),
    Option(
        "mips",
        _mips,
        f"let the guest's clock count instructions, so many millions a second: {', '.join(f'{n:g}' for n in MIPS)}",
        "MIPS",
        "nodes",
        "how-to/benchmarks",
    ),
    Option(
        "lan",
        inputs.flag,
        "connect the nodes of a cluster with each other (default: yes)",
        "yes|no",
        "nodes",
        "how-to/several-nodes",
        default=True,
    ),
    Option(
        "hostname",
        _hostname,
        f"the host names, {NUMBER} being a node's number; {IMAGES_OWN}: the image's own (default: pi-{NUMBER})",
        "NAME",
        "nodes",
        "how-to/host-names",
        default=f"pi-{NUMBER}",
    ),
    Option(
        "internet",
        inputs.flag,
        "let nodes reach the internet (default: yes)",
        "yes|no",
        "nodes",
        "explanation/network",
        default=True,
    ),
    Option(
        "host_access",
        inputs.flag,
        "let nodes reach the services on the host's 127.0.0.1, at 10.0.2.2 (engine local)",
        applies="nodes",
        page="explanation/security",
        default=False,
    ),
    Option(
        "prepare",
        _prepare,
        "what is done once to a new cluster, which is then saved and forked: scripts, Ansible playbooks, in code also "
        "functions",
        "PATH[,PATH...]",
        "nodes",
        locates=True,
    ),
    Option(
        "prepare_files",
        _prepare_files,
        "files, folders and patterns by whose content a saved cluster is known, too",
        "PATH[,PATH...]",
        "nodes",
        locates=True,
    ),
    Option(
        "prepare_again",
        inputs.flag,
        "prepare clusters anew, even if there are saved ones",
    ),
    Option(
        "workers",
        _workers,
        "let the workers of pytest-xdist share clusters, or give each worker its own",
        "shared|own",
        page="how-to/parallel",
    ),
    Option(
        "overcommit", inputs.flag, "start nodes even if they do not fit into the host's memory", page="how-to/parallel"
    ),
    Option("cache_dir", inputs.directory, "the directory for images (default: ~/.cache/pytest-pidoc)", "DIR"),
    Option(
        "keep",
        _keep,
        "let nodes run on after the tests: those of failed tests, or all",
        "never|on-failure|always",
        page="how-to/keep-nodes",
    ),
    Option(
        "artifacts",
        inputs.directory,
        "the directory for the logs of failed tests (default: pytest's base temp)",
        "DIR",
        page="how-to/evidence",
    ),
    Option("require", inputs.flag, "fail tests instead of skipping them if no engine is available", page="how-to/ci"),
)

#: What only the marker takes, beside the settings of a cluster.
FLAGS: tuple[Option, ...] = (
    Option(
        "fresh",
        inputs.truth,
        "True: start nodes for this test alone, and end them after it",
        applies="nodes",
        page="how-to/private-nodes",
    ),
    Option(
        "shared",
        inputs.truth,
        "True: other tests with shared=True can use the nodes at the same time",
        applies="nodes",
        page="how-to/parallel",
    ),
)


def signature(name: str, *flags: Option, **first: object) -> str:
    """Return how something that takes the settings of a cluster is called, for errors and the reference.

    What is not switched on or off is ``None`` there: it comes from the settings.
    """
    defaults: dict[str, object] = {each.name: each.default for each in OPTIONS if each.applies != "run"}
    defaults.update({**{flag.name: False for flag in flags}, **first})
    nodes, *others = (f"{argument}={default!r}" for argument, default in defaults.items())
    return f"{name}({nodes}, *, {', '.join(others)})"


#: What the marker takes, and how it is written.
MARKER = (*(option for option in OPTIONS if option.applies != "run"), *FLAGS)
MARKER_SIGNATURE = signature("pidoc", *FLAGS, nodes=1)
