"""The command line of ``pidoc``: which commands there are, and what they take."""

from __future__ import annotations

import argparse

from pytest_pidoc.commands import clusters, host, images
from pytest_pidoc.commands.arguments import GUEST, NODES, add_command, add_json, add_parser
from pytest_pidoc.commands.bench import add_subjects
from pytest_pidoc.version import __version__

__all__ = ["make_parser"]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="pidoc",
        description="Emulated Raspberry Pis for tests.",
        epilog="pidoc COMMAND --help has an example of each command.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-pidoc {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    start = (*GUEST, *NODES, "overcommit")
    add_command(
        subparsers, "demo", host.demo, "boot three Pis and run a small test file on them", "pidoc demo", "engine"
    )
    doctor = add_json(
        add_command(subparsers, "doctor", host.doctor, "say what this machine has and lacks", "pidoc doctor")
    )
    doctor.add_argument(
        "--verify", action="store_true", help="hash all images, warm states and downloads, too: about 1 s per GB"
    )
    add_json(
        add_command(
            subparsers, "models", host.models, "list the models, and which this host's QEMU can be", "pidoc models"
        )
    )

    build = add_command(
        subparsers,
        "build",
        images.build,
        "build an image, if it is not there",
        "pidoc build --model pi3-virt",
        *GUEST,
    )
    build.add_argument("--rebuild", action="store_true", help="build it even if it is there, e.g. if it is damaged")
    build.add_argument(
        "--container",
        choices=("pidoc-vm", "pidoc"),
        help="build a container image too: with QEMU alone, or with the guest in it, to be published",
    )
    build.add_argument("--base-image", metavar="IMAGE", help="what the container image is built on")
    build.add_argument("--tag", metavar="NAME:TAG", help="name the container image so, beside its own name")

    pull = add_command(
        subparsers, "pull", images.pull, "pull a published image", "pidoc pull docker://registry.example.org/pidoc:1"
    )
    pull.add_argument("image", metavar="docker://NAME:TAG")
    add_json(add_command(subparsers, "images", images.images, "list the images in the cache", "pidoc images --json"))
    prune = add_command(
        subparsers, "prune", images.prune, "remove what no cluster uses", "pidoc prune --days 30 --size 5G"
    )
    prune.add_argument("--days", type=float, metavar="N", help="only what was not used for that long")
    prune.add_argument(
        "--size", metavar="SIZE", help="only until the cache takes no more than that, the least recently used first"
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")

    add_json(
        add_command(
            subparsers, "up", clusters.up, "start nodes that run until pidoc down", "pidoc up --nodes 3", *start
        )
    )
    add_json(add_command(subparsers, "ps", clusters.ps, "list the clusters that run, and their nodes", "pidoc ps"))
    ssh = add_command(
        subparsers, "ssh", clusters.ssh, "open a shell on a node, or run a command", "pidoc ssh pi-2 -- uname -a"
    )
    _add_node(ssh)
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command to run")
    console = add_command(
        subparsers, "console", clusters.console, "use a node's serial console (Ctrl-] leaves)", "pidoc console pi-1"
    )
    _add_node(console)
    down = add_command(subparsers, "down", clusters.down, "end clusters", "pidoc down c-1f2e3d4c")
    down.add_argument("names", nargs="*", metavar="CLUSTER", help="which (default: those that pidoc up started)")
    down.add_argument("--all", action="store_true", help="all of this user's, those of running tests too")

    bench = add_parser(
        subparsers, "bench", "measure how fast nodes start and compute on this host", "pidoc bench start --nodes 3"
    )
    add_subjects(bench.add_subparsers(title="what to measure", metavar="WHAT", required=True))
    return parser


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "node",
        nargs="?",
        default="pi-1",
        metavar="[CLUSTER/]NODE",
        help="the node (default: pi-1); the cluster may be left out when only one runs",
    )
