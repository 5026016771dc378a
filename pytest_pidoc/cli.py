"""The command ``pidoc``.

Exit status: 0 when it was done, 1 when it failed, 2 when the command line is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_pidoc import __version__, commands
from pytest_pidoc.errors import PidocError, SettingsError
from pytest_pidoc.settings import OPTIONS, Settings

__all__ = ["main", "make_parser", "parse"]

FAILED, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    run: Callable[[argparse.Namespace, Settings], int] = options.run
    try:
        given = {option.name: getattr(options, option.name, None) for option in OPTIONS}
        return run(options, Settings.load(given, prefix="--"))
    except SettingsError as error:
        print(f"pidoc: {error}", file=sys.stderr)
        return USAGE
    except PidocError as error:
        print(f"pidoc: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("pidoc: interrupted; nothing is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return FAILED
    except OSError as error:  # the disk is full, a file in a cluster's directory is damaged, and the like
        print(f"pidoc: the system refuses something: {error}", file=sys.stderr)
        return FAILED


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. What stands behind ``--`` is not ours: argparse would take it for a missing node."""
    ours = list(arguments)
    words: list[str] = []
    if "--" in ours:
        ours, words = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    options = make_parser().parse_args(ours)
    if hasattr(options, "words"):
        options.words += words
    elif words:
        make_parser().error(f"unrecognized arguments: {' '.join(words)}")
    return options


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="pidoc",
        description="Emulated Raspberry Pis for tests.",
        epilog="pidoc COMMAND --help has an example of each command.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-pidoc {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace, Settings], int], summary: str, example: str, *settings: str
    ) -> argparse.ArgumentParser:
        added = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        for option in OPTIONS:
            if option.name in (*settings, "cache_dir"):
                flag = "--" + option.name.replace("_", "-")
                kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"action": "store_true"}
                added.add_argument(flag, dest=option.name, default=None, help=option.help, **kind)
        return added

    def with_json(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--json", action="store_true", help="print JSON for scripts")
        return added

    guest = ("model", "image", "kernel", "initrd", "dtb", "append")
    nodes = (
        "nodes",
        "memory",
        "cpus",
        "boot_timeout",
        "start",
        "announce_board",
        "mips",
        "lan",
        "internet",
        "host_access",
        "overcommit",
    )
    start = ("engine", *guest, *nodes)
    command("demo", commands.demo, "boot three Pis and run a small test file on them", "pidoc demo", "engine")
    doctor = with_json(command("doctor", commands.doctor, "say what this machine has and lacks", "pidoc doctor"))
    doctor.add_argument(
        "--verify", action="store_true", help="hash all images, warm states and downloads, too: about 1 s per GB"
    )
    with_json(command("models", commands.models, "list the models, and which this host's QEMU can be", "pidoc models"))

    build = command(
        "build", commands.build, "build an image, if it is not there", "pidoc build --model pi3-virt", *guest
    )
    build.add_argument("--rebuild", action="store_true", help="build it even if it is there, e.g. if it is damaged")
    build.add_argument(
        "--container",
        choices=("pidoc-vm", "pidoc"),
        help="build a container image too: with QEMU alone, or with the guest in it, to be published",
    )
    build.add_argument("--base-image", metavar="IMAGE", help="what the container image is built on")
    build.add_argument("--tag", metavar="NAME:TAG", help="name the container image so, beside its own name")

    pull = command("pull", commands.pull, "pull a published image", "pidoc pull docker://registry.example.org/pidoc:1")
    pull.add_argument("image", metavar="docker://NAME:TAG")
    with_json(command("images", commands.images, "list the images in the cache", "pidoc images --json"))
    prune = command("prune", commands.prune, "remove what no cluster uses", "pidoc prune --days 30 --size 5G")
    prune.add_argument("--days", type=float, metavar="N", help="only what was not used for that long")
    prune.add_argument(
        "--size", metavar="SIZE", help="only until the cache takes no more than that, the least recently used first"
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")

    with_json(command("up", commands.up, "start nodes that run until pidoc down", "pidoc up --nodes 3", *start))
    with_json(command("ps", commands.ps, "list the clusters that run, and their nodes", "pidoc ps"))
    ssh = command("ssh", commands.ssh, "open a shell on a node, or run a command", "pidoc ssh pi-2 -- uname -a")
    _add_node(ssh)
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command to run")
    console = command("console", commands.console, "use a node's serial console (Ctrl-] leaves)", "pidoc console pi-1")
    _add_node(console)
    down = command("down", commands.down, "end clusters", "pidoc down c-1f2e3d4c")
    down.add_argument("names", nargs="*", metavar="CLUSTER", help="which (default: those that pidoc up started)")
    down.add_argument("--all", action="store_true", help="all of this user's, those of running tests too")

    bench = with_json(
        command(
            "bench",
            commands.bench,
            "measure this machine's starts",
            "pidoc bench start --nodes 3",
            *("engine", "model", "nodes", "boot_timeout"),
        )
    )
    bench.add_argument(
        "subject",
        choices=("boot", "start", "soak", "models", "lan", "power-cuts", "rates", "counting", "guest", "workers"),
        help="boot: cold boots, against an untuned Debian and of three nodes; start: warm starts against cold ones; "
        "soak: warm starts one after the other, which fails if one of them does or something is left behind; "
        "models: what each model says that it is, and its starts, one cold and the others warm; "
        "lan: what the network between nodes carries and costs, and what its faults do; "
        "power-cuts: pulls the plug amid synced writes, and fails if something of them is lost; "
        "rates: disk and network of each model against the same QEMU without what is added; "
        "counting: how counts repeat on a busy machine, and whether 1 %% more work is seen; fails if not; "
        "guest: how fast a guest computes, stores and sends, with a whole CPU and with half of one; "
        "workers: tests that wait, one after the other and with workers of pytest-xdist, and whether two had one node",
    )
    bench.add_argument("--runs", type=int, default=3, metavar="N", help="starts per row; of a soak, all (default: 3)")
    bench.add_argument(
        "--untuned", action="store_true", help="start: cold starts of an untuned Debian too, which are slow"
    )
    bench.add_argument("--sizes", metavar="N,...", help="start: warm clusters of these numbers of nodes, too")
    bench.add_argument("--cuts", type=int, metavar="N", help="power-cuts: how many (default: 30)")
    bench.add_argument("--unchanged", type=int, metavar="N", help="counting: runs of the same program (default: 50)")
    bench.add_argument(
        "--models", metavar="MODEL,...", help="models, rates, guest: which of them (default: all; of guest: --model)"
    )
    bench.add_argument("--events", type=int, metavar="N", help="guest: how many sysbench computes (default: 10000)")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="guest: draw it, too, to a .png or a .svg file")
    bench.add_argument("--estimate", action="store_true", help="guest: times on real boards, too, each with its error")
    return parser


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "node",
        nargs="?",
        default="pi-1",
        metavar="[CLUSTER/]NODE",
        help="the node (default: pi-1); the cluster may be left out when only one runs",
    )
