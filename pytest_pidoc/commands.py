"""What each command of ``pidoc`` does."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_pidoc import processes, reaper, runtime
from pytest_pidoc.checks import shown
from pytest_pidoc.errors import EngineUnavailable, PidocError, SettingsError
from pytest_pidoc.machines import MIB, MODELS
from pytest_pidoc.progress import TerminalProgress
from pytest_pidoc.settings import Settings, parse_size
from pytest_pidoc.tables import duration, size, table

if TYPE_CHECKING:
    import docker

    from pytest_pidoc.cluster import Cluster
    from pytest_pidoc.node import Node

__all__ = [
    "bench",
    "build",
    "console",
    "demo",
    "doctor",
    "down",
    "images",
    "models",
    "prune",
    "ps",
    "pull",
    "ssh",
    "up",
]


def demo(options: argparse.Namespace, settings: Settings) -> int:
    """Run the demonstration."""
    from pytest_pidoc import demo as demonstration

    return 1 if demonstration.run(settings, _progress()) else 0


def doctor(options: argparse.Namespace, settings: Settings) -> int:
    """Print what is there and what is not; fail if no engine can be used, or with ``--verify`` if a file is damaged."""
    from pytest_pidoc.doctor import examine, verify

    checks = examine(settings)
    damaged = verify(settings, _progress()) if options.verify else []
    checks += damaged
    if options.json:
        _print_json([dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            word = "ok" if check.ok else "damaged" if check in damaged else "missing"
            print(f"{word:<7}  {check.name:<16} {check.found}")
            if check.remedy:
                print(f"{'':26}try: {check.remedy}")
    usable = any(check.ok for check in checks if check.name.startswith("engine"))
    return 0 if usable and all(check.ok for check in damaged) else 1


def models(options: argparse.Namespace, settings: Settings) -> int:
    """List the models, and which of them this host's QEMU can be."""
    from pytest_pidoc.availability import availabilities
    from pytest_pidoc.engines.local import LocalEngine

    found: list[dict[str, Any]] = [
        {
            "model": each.machine.name,
            "machine": each.machine.machine,
            "cpu": each.machine.cpu,
            "cores": each.machine.cores,
            "memory": each.machine.memory,
            "architecture": each.machine.architecture,
            "summary": each.machine.summary,
            "least_qemu": ".".join(map(str, each.machine.least_qemu)),
            "ok": each.ok,
            "here": str(each),
        }
        for each in availabilities(LocalEngine())
    ]
    if options.json:
        _print_json(found)
    else:
        rows = [
            (
                *(each[name] for name in ("model", "machine", "cpu", "cores")),
                f"{each['memory'] // MIB}M",
                *(each[name] for name in ("architecture", "here", "summary")),
            )
            for each in found
        ]
        print(table(("model", "machine", "cpu", "cores", "memory", "guest", "here", "what it is for"), rows))
    return 0


def build(options: argparse.Namespace, settings: Settings) -> int:
    """Build an image, and a container image if asked to."""
    from pytest_pidoc.provision import build_image

    progress = _progress()
    if (options.base_image or options.tag) and not options.container:
        raise SettingsError("--base-image and --tag are for a container image.", tip="--container pidoc")
    image = build_image(settings.spec(), settings, progress, rebuild=options.rebuild)
    print(image.path)
    if options.container:
        from pytest_pidoc import dockerd
        from pytest_pidoc.images import container

        with contextlib.closing(dockerd.connect()) as client:
            reference = container.build(
                client,
                image if options.container == "pidoc" else None,
                directory=settings.cache_dir / "containers",
                progress=progress,
                base_image=options.base_image or container.BASE_IMAGE,
            )
            if options.tag:
                container.tag(client, reference, options.tag)
        print(options.tag or reference)
    return 0


def pull(options: argparse.Namespace, settings: Settings) -> int:
    """Pull a published image."""
    from pytest_pidoc import dockerd
    from pytest_pidoc.images import registry

    with contextlib.closing(dockerd.connect()) as client:
        reference, image = registry.pull(
            client, options.image, directory=settings.cache_dir / "published", progress=_progress(), again=True
        )
    print(f"{reference}: {image}")
    return 0


def images(options: argparse.Namespace, settings: Settings) -> int:
    """List the images in the cache, and the container images of ours if a daemon answers."""
    from pytest_pidoc.images import usage
    from pytest_pidoc.images.cache import Cache

    cache = Cache(settings.cache_dir)
    for path in cache.unreadable():
        print(f"pidoc: the manifest in {path} cannot be read; pidoc prune removes it", file=sys.stderr)
    found: list[dict[str, Any]] = [
        {
            "recipe": image.manifest.recipe,
            "architecture": image.manifest.architecture,
            "key": image.manifest.key,
            "created": image.manifest.created,
            "used": usage.last_used(cache.root, image.path),
            "bytes": sum(file.size for file in image.manifest.files.values()),
            "path": str(image.path),
        }
        for image in cache.images()
    ]
    found += _container_images()
    if options.json:
        _print_json(found)
    else:
        rows = [
            (
                *(_shortened(each["recipe"]), each["architecture"], str(each["key"])[:12], each["created"]),
                f"{duration(time.time() - each['used'])} ago" if each["used"] else "",
                size(each["bytes"]),
            )
            for each in found
        ]
        print(table(("recipe", "architecture", "key", "created", "used", "size"), rows))
    return 0


def _shortened(recipe: str, width: int = 60) -> str:
    """Return a recipe as it fits into a table: a URL with its SHA-256 does not."""
    return recipe if len(recipe) <= width else f"{recipe[: width - 20]}...{recipe[-17:]}"


def _container_images() -> list[dict[str, Any]]:
    from datetime import datetime, timezone

    from pytest_pidoc.images import stored

    with _daemon() as client:
        return [
            {
                "recipe": image.names[0] if image.names else image.kind,
                "architecture": "",
                "key": image.guest,
                "created": datetime.fromtimestamp(image.created, timezone.utc).isoformat(timespec="seconds"),
                "used": None,
                "bytes": image.size,
                "path": f"docker:{image.id}",
            }
            for image in (stored.stored(client) if client else ())
        ]


@contextlib.contextmanager
def _daemon() -> Iterator[docker.DockerClient | None]:
    """Connect to the Docker daemon, if there is one."""
    from pytest_pidoc import dockerd

    with contextlib.ExitStack() as closing:
        client = None
        with contextlib.suppress(EngineUnavailable):
            client = closing.enter_context(contextlib.closing(dockerd.connect()))
        yield client


def prune(options: argparse.Namespace, settings: Settings) -> int:
    """Remove what nobody uses: images, warm states, downloads, container images, logs of failed starts."""
    from pytest_pidoc import pruning

    if options.days is not None and not 0 <= options.days < float("inf"):
        raise SettingsError(f"--days: {options.days} is not a number of days from 0 on.")
    try:
        limit = None if options.size is None else parse_size(options.size)
    except ValueError as error:
        raise SettingsError(f"--size: {shown(options.size)} is not {error}.") from None
    if not options.dry_run:
        reaper.sweep()
    used = {path for _, record in _records() for path in (record["provision"]["image"], record["template"]) if path}
    removes, keeps = ("would remove", "would keep") if options.dry_run else ("removed", "kept")
    with _daemon() as client:
        items = pruning.in_cache(settings.cache_dir, {Path(path) for path in used})
        before = pruning.occupied(items)
        others = [*(pruning.containers(client) if client else ()), *pruning.evidence(runtime.failed_directory())]
        age = None if options.days is None else options.days * 86400
        removed = set()
        for outcome in pruning.prune([*items, *others], now=time.time(), age=age, size=limit, dry_run=options.dry_run):
            print(f"{removes if outcome.removed else keeps:<8} {outcome.item.name}: {outcome.why}")
            if outcome.removed:
                removed.add(id(outcome.item))
    left = pruning.occupied([item for item in items if id(item) not in removed])
    frees = "would free" if options.dry_run else "freed"
    print(f"{frees} {size(before - left)} in {settings.cache_dir}, where {size(left)} are left")
    return 0


def up(options: argparse.Namespace, settings: Settings) -> int:
    """Start nodes that outlive this command."""
    from pytest_pidoc.cluster import Cluster

    cluster = Cluster.from_spec(settings.spec(), settings, progress=_progress(), keep=True)
    if options.json:
        _print_json(_describe(cluster))
    else:
        for node in cluster:
            print(f"{cluster.name}/{node.name}  {node.ssh_command}")
    cluster.close()
    return 0


def ps(options: argparse.Namespace, settings: Settings) -> int:
    """List clusters and nodes."""
    from pytest_pidoc.cluster import Cluster

    found = []
    for directory, record in _records():
        owner = record["owner"]
        alive = owner is not None and processes.is_alive(owner)
        entry = {
            "cluster": directory.name,
            "engine": record["engine"],
            "model": record["spec"]["model"],
            "age": time.time() - record["created"],
            "owner": None if owner is None else int(owner.partition(":")[0]) if alive else "gone",
            "nodes": [],
        }
        if record["nodes"]:
            try:
                with contextlib.closing(Cluster.attach(directory)) as cluster:
                    entry["nodes"] = _describe(cluster)["nodes"]
            except PidocError as error:  # its image or its daemon is gone; the other clusters are not
                print(f"pidoc: {directory.name}: {error}", file=sys.stderr)
                unknown = {"host": "", "port": "", "state": "unknown"}
                entry["nodes"] = [{"name": node["name"], **unknown} for node in record["nodes"]]
        found.append(entry)
    if options.json:
        _print_json(found)
        return 0
    rows = [
        (
            f"{entry['cluster']}/{node['name']}",
            entry["engine"],
            entry["model"],
            duration(entry["age"]),
            "pidoc down" if entry["owner"] is None else _owner(entry["owner"]),
            f"{node['host']}:{node['port']}",
            node["state"],
        )
        for entry in found
        for node in entry["nodes"] or [{"name": "*", "host": "", "port": "", "state": "starting"}]
    ]
    print(table(("node", "engine", "model", "age", "ended by", "ssh", "state"), rows))
    return 0


def _owner(pid: int | str) -> str:
    """Return how the process is called that ends a cluster: ``process 4711 (pytest)``."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"


def ssh(options: argparse.Namespace, settings: Settings) -> int:
    """Become an ssh to a node."""
    node = _node(options.node)
    command = [*node.ssh_arguments(), *options.words]
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 # to become it, terminal and all, is the point
    except FileNotFoundError:
        raise PidocError("ssh is not installed.", tip="apt-get install openssh-client") from None


def console(options: argparse.Namespace, settings: Settings) -> int:
    """Connect the terminal to a node's serial console."""
    from pytest_pidoc import unix
    from pytest_pidoc.engines.engine import CONSOLE_SOCKET
    from pytest_pidoc.passthrough import pass_through

    node = _node(options.node)
    try:
        connection = unix.connect(node.directory / CONSOLE_SOCKET)
    except OSError as error:
        raise PidocError(f"The console of {node.name} cannot be reached: {error}.", tip="pidoc ps") from error
    with connection:
        print(f"Connected to {node.name}; Ctrl-] leaves, Enter shows the prompt.", file=sys.stderr)
        pass_through(connection)
    return 0


def down(options: argparse.Namespace, settings: Settings) -> int:
    """End clusters; fail if one cannot be ended, when the others are."""
    known = {directory.name: directory for directory in runtime.cluster_directories()}
    for name in options.names:
        if name not in known:
            raise SettingsError(f"There is no cluster {shown(name)}.", tip="pidoc ps")
    if options.names:
        chosen = [known[name] for name in options.names]
    else:
        chosen = [path for path in known.values() if options.all or _is_nobodys(path)]
    failed = False
    for directory in chosen:
        try:
            reaper.reap(directory)
        except PidocError as error:  # its daemon does not answer
            failed = True
            print(f"pidoc: {directory.name}: {error}", file=sys.stderr)
        else:
            print(f"{directory.name} is down")
    for name in reaper.sweep():
        print(f"{name} is down: its owner was gone")
    return int(failed)


class Report(Protocol):
    """What a measurement gives; printed, it is a table."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""


def bench(options: argparse.Namespace, settings: Settings) -> int:
    """Measure; fail if a soak or a power cut found something, or a model could not be measured."""
    from pytest_pidoc.bench import boot, counting, guest, lan, models, plot, power_cuts, rates, soak, start, workers
    from pytest_pidoc.bench.published import EVENTS

    if options.runs < 1:
        raise SettingsError("--runs must be at least 1.")
    if options.untuned and options.subject != "start":
        raise SettingsError("--untuned is for pidoc bench start.")
    if options.sizes and options.subject != "start":
        raise SettingsError("--sizes is for pidoc bench start.")
    if options.models and options.subject not in ("models", "rates", "guest"):
        raise SettingsError("--models is for pidoc bench models, rates and guest.")
    if options.unchanged is not None and options.subject != "counting":
        raise SettingsError("--unchanged is for pidoc bench counting.")
    if (options.events is not None or options.plot or options.estimate) and options.subject != "guest":
        raise SettingsError("--events, --plot and --estimate are for pidoc bench guest.")
    if options.events is not None and options.events < 1:
        raise SettingsError("--events must be at least 1.")
    if options.plot:
        plot.require(options.plot)
    if options.cuts is not None and options.subject != "power-cuts":
        raise SettingsError("--cuts is for pidoc bench power-cuts.")
    if options.subject == "power-cuts":
        return _report(power_cuts.power_cuts(settings, cuts=_cuts(options.cuts), progress=_progress()), options)
    every = (settings.model,) if options.subject == "guest" else tuple(MODELS)  # all of them would take it hours
    names = tuple(options.models.split(",")) if options.models else every
    subjects: dict[str, Callable[..., Report]] = {
        "boot": boot.boot,
        "start": partial(start.start, untuned=options.untuned, sizes=_sizes(options.sizes)),
        "soak": soak.soak,
        "models": partial(models.models, names=names),
        "lan": lan.lan,
        "counting": partial(counting.counting, unchanged=_unchanged(options.unchanged)),
        "rates": partial(rates.rates, names=names),
        "guest": partial(guest.guest, names=names, events=options.events or EVENTS, estimated=options.estimate),
        "workers": workers.workers,
    }
    report = subjects[options.subject](settings, runs=options.runs, progress=_progress())
    status = _report(report, options)
    if options.plot and isinstance(report, guest.GuestReport):
        plot.plot(report, options.plot)
    return status


def _report(report: Any, options: argparse.Namespace) -> int:
    """Print what a benchmark found, and return the status: 1 if its report can say that it is not well, and does."""
    if options.json:
        _print_json(report.to_dict())
    else:
        print(report)
    return 0 if getattr(report, "ok", True) else 1


def _cuts(number: int | None) -> int:
    if number is not None and number < 1:
        raise SettingsError("--cuts must be at least 1.")
    return number or 30


def _unchanged(number: int | None) -> int:
    number = 50 if number is None else number
    if number < 1:
        raise SettingsError("--unchanged must be at least 1.")
    return number


def _sizes(text: str | None) -> tuple[int, ...]:
    """Return the numbers of nodes in ``1,8,16``."""
    try:
        return tuple(Settings.load({"nodes": part}).nodes for part in text.split(",")) if text else ()
    except SettingsError as error:
        raise SettingsError(error.what.replace("--pidoc-nodes", "--sizes")) from None


def _is_nobodys(directory: Path) -> bool:
    """Tell whether a cluster was started by ``pidoc up``, or was left to whoever ends it."""
    try:
        return runtime.read(directory)["owner"] is None
    except PidocError:  # it is just being made, or just ended
        return False


def _records() -> list[tuple[Path, dict[str, Any]]]:
    """Return every cluster's directory and record, oldest first; say which records cannot be used."""
    found = []
    for directory in runtime.cluster_directories():
        try:
            found.append((directory, runtime.read_whole(directory)))
        except PidocError as error:
            if (directory / runtime.RECORD).exists():  # else it is just being made, or just ended
                print(f"pidoc: {error}", file=sys.stderr)
    return found


def _node(name: str) -> Node:
    """Return the node that ``[CLUSTER/]NODE`` names."""
    from pytest_pidoc.cluster import Cluster

    wanted, _, node_name = name.rpartition("/")
    candidates = [
        directory
        for directory, record in _records()
        if wanted in ("", directory.name) and node_name in [node["name"] for node in record["nodes"]]
    ]
    if not candidates:
        raise SettingsError(f"There is no node {shown(name)}.", tip="pidoc ps; pidoc up starts one")
    if len(candidates) > 1:
        names = ", ".join(f"{directory.name}/{node_name}" for directory in candidates)
        raise SettingsError(f"There are several nodes {shown(name)}.", tip=f"one of {names}")
    return next(node for node in Cluster.attach(candidates[0]) if node.name == node_name)


def _describe(cluster: Cluster) -> dict[str, Any]:
    return {
        "cluster": cluster.name,
        "directory": str(cluster.directory),
        "nodes": [
            {
                "name": node.name,
                "host": node.host,
                "port": node.port,
                "state": node.death() or "up",
                "ssh": node.ssh_command,
                "timings": dataclasses.asdict(node.timings),
            }
            for node in cluster
        ],
    }


def _progress() -> TerminalProgress:
    return TerminalProgress(sys.stderr)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
