"""The command line of ``pidoc``: which commands there are, and what they take."""

from __future__ import annotations

import argparse

from pytest_pidoc.commands import clusters, host, images
from pytest_pidoc.commands.arguments import GUEST, NODES, add_command, add_json, add_parser
from pytest_pidoc.commands.bench import add_subjects
from pytest_pidoc.version import __version__

__all__ = ["make_parser"]

IN_A_TEST = """\
in a test:
  @pytest.mark.pidoc(nodes=3, boot_timeout=60)
  def test_it(pi_cluster): ...

  The marker pidoc says which nodes a test gets. An argument of it has the name of
  the option above, with _ for -; pytest --markers lists them all. What the marker
  leaves out comes from pytest's options: --pidoc-nodes, --pidoc-boot-timeout, ..."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="pidoc",
        description="Emulated Raspberry Pis for tests.",
        epilog="pidoc COMMAND --help has an example of each command.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-pidoc {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    start = (*GUEST, *NODES, "overcommit", "prepare_again")
    add_command(
        subparsers, "demo", host.demo, "boot three Pis and run a small test file on them", "pidoc demo", "engine"
    )
    doctor = add_json(
        add_command(subparsers, "doctor", host.doctor, "check what this host has and what is missing", "pidoc doctor")
    )
    doctor.add_argument(
        "--verify", action="store_true", help="also hash all images, warm states and downloads: about 1 s per GB"
    )
    add_json(
        add_command(
            subparsers,
            "models",
            host.models,
            "list the models, and which of them this host's QEMU supports",
            "pidoc models",
        )
    )

    build = add_command(
        subparsers,
        "build",
        images.build,
        "build an image, or prepare and save a cluster, unless it is in the cache",
        "pidoc build --model pi3-virt",
        *start,
    )
    build.set_defaults(without_effect=tuple(name for name in start if name not in (*GUEST, "prepare")))
    build.add_argument("--rebuild", action="store_true", help="build it again, for example if it is damaged")
    build.add_argument(
        "--container",
        choices=("pidoc-vm", "pidoc"),
        help="also build a container image: with QEMU alone, or with QEMU and the guest, for a registry",
    )
    build.add_argument("--base-image", metavar="IMAGE", help="the image that the container image is built on")
    build.add_argument("--tag", metavar="NAME:TAG", help="an additional name for the container image")

    pull = add_command(
        subparsers, "pull", images.pull, "pull a published image", "pidoc pull docker://registry.example.org/pidoc:1"
    )
    pull.add_argument("image", metavar="docker://NAME:TAG")
    add_json(add_command(subparsers, "images", images.images, "list the images in the cache", "pidoc images --json"))
    prune = add_command(
        subparsers,
        "prune",
        images.prune,
        "remove images and logs that no cluster uses",
        "pidoc prune --days 30 --size 5G",
    )
    prune.add_argument("--days", type=float, metavar="N", help="only what was not used for N days")
    prune.add_argument(
        "--size", metavar="SIZE", help="only until the cache is this small, the least recently used first"
    )
    prune.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")

    up = add_json(
        add_command(
            subparsers, "up", clusters.up, "start nodes that run until pidoc down", "pidoc up --nodes 3", *start
        )
    )
    up.epilog = f"{up.epilog}\n\n{IN_A_TEST}"
    add_json(add_command(subparsers, "ps", clusters.ps, "list the running clusters and their nodes", "pidoc ps"))
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
    down.add_argument(
        "names", nargs="*", metavar="CLUSTER", help="the clusters to end (default: those that pidoc up started)"
    )
    down.add_argument(
        "--all", action="store_true", help="end all clusters of this user, including those of running tests"
    )

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
        help="the node (default: pi-1); the cluster can be left out if only one runs",
    )
