"""Clusters that start and end again and again, while parts of them are killed: nothing is left, and all is named.

``pytest tests/soak/test_kills.py`` is a short form, with ``--soak full`` there are 500 starts. ``--soak-restart-docker
COMMAND`` restarts the Docker daemon, too, if the command does.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_pidoc import Settings
from pytest_pidoc.containers import daemon
from pytest_pidoc.containers.running import node_containers
from pytest_pidoc.lifecycle.provision import build_image
from pytest_pidoc.values.progress import Progress

STARTS = 3  # of clusters, in each run of pytest; one of them is disturbed
RUNS = {"short": 7, "full": 84}  # for each engine
HANG = 300.0  # seconds after which a run counts as one that hangs
GONE = 10.0  # seconds after which nothing of it may be left

#: What is killed, on which engines, and what the report says then.
KILLS: dict[str, tuple[tuple[str, ...], str]] = {
    "pytest": (("local", "docker"), ""),
    "group": (("local", "docker"), ""),
    "worker": (("local", "docker"), "crashed while running"),
    "qemu": (("local", "docker"), "QEMU was killed by signal 9"),
    "switch": (("local", "docker"), "The switch has ended"),
    "container": (("docker",), "its container was removed"),
    "daemon": (("docker",), "died|daemon"),
}

TESTS = """
import contextlib, os, pathlib, random, signal, subprocess, time
import pytest

def kill(what, cluster):
    pi = random.choice(list(cluster))
    if what == "qemu":
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().split(b"\\0")
                if words[0].endswith(b"qemu-system-aarch64") and f"{cluster.name}/{pi.name}".encode() in words:
                    os.kill(int(entry.name), signal.SIGKILL)
    elif what == "switch":
        os.kill(int(pi._lan.handle.partition(":")[0]), signal.SIGKILL)
    elif what == "container":
        subprocess.run(["docker", "rm", "--force", pi._vm.endpoint.handle], check=True, capture_output=True)
    elif what == "daemon":
        subprocess.run(os.environ["RESTART"], shell=True, check=True)
    elif what == "worker":
        os.kill(os.getpid(), random.choice([signal.SIGKILL, signal.SIGSEGV]))
    return pi

@pytest.mark.parametrize("number", range(STARTS))
@pytest.mark.pidoc(nodes=2, fresh=FRESH)
def test_start(number, pi_cluster):
    pi_cluster.run("true")
    if number == 1 and WHAT not in ("none", "pytest", "group"):
        time.sleep(random.random())
        pi = kill(WHAT, pi_cluster)
        for _ in range(10):
            pi_cluster[0].run("ping -c 1 -W 1 pi-2")
            pi.run("true")
"""


@dataclass
class Tally:
    """What was done, and what went wrong with it."""

    starts: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{number} x {what}" for what, number in sorted(self.kills.items()))
        return f"{self.starts} starts, killed: {kills or 'nothing'}; {len(self.wrong)} went wrong"


def of_run(temporary: Path) -> list[str]:
    """Return what there is of a run whose temporary directory that is: processes, clusters, containers."""
    wanted, found = f"TMPDIR={temporary}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(f"process {int(entry.name)}: {(entry / 'cmdline').read_bytes()[:80]!r}")
    clusters = [path.name for path in temporary.glob("pidoc-*/c-*")]
    return found + clusters


def containers_of(clusters: set[str]) -> list[str]:
    """Return the containers of these clusters, and those that any process has run that is gone."""
    with contextlib.closing(daemon.connect()) as client:
        return [
            f"container {each.id[:12]} of {each.cluster}"
            for each in node_containers(client)
            if each.cluster in clusters
            or (each.cluster.startswith("run-") and not Path("/proc", each.cluster.split("-")[1]).exists())
        ]


def errors_in(output: Path) -> str:
    """Return what pytest's report says of its errors, without the logs."""
    lines = output.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if line.startswith(("E  ", "FAILED", "ERROR", "INTERNALERROR")))[-6000:]


@contextlib.contextmanager
def running(folder: Path, arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run pytest in a process group of its own, which is gone at the end."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def disturb(what: str, engine: str, folder: Path, environment: dict[str, str], chance: random.Random) -> list[str]:
    """Let a run of pytest start some clusters while something is killed; return what went wrong."""
    temporary = folder / "t"
    temporary.mkdir(parents=True)
    source = TESTS.replace("STARTS", str(STARTS)).replace("FRESH", str(what != "worker")).replace("WHAT", repr(what))
    (folder / "test_starts.py").write_text(source)
    arguments = ["-n2"] if what == "worker" else []
    wrong, clusters = [], set()
    with running(folder, arguments, {**environment, "TMPDIR": str(temporary), "PIDOC_ENGINE": engine}) as process:
        end = time.monotonic() + (chance.uniform(0.5, 8) if what in ("pytest", "group") else HANG)
        while process.poll() is None and time.monotonic() < end:
            clusters |= {path.name for path in temporary.glob("pidoc-*/c-*")}
            time.sleep(0.05)
        if what == "pytest":
            process.kill()
        elif what == "group":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            wrong.append(f"it hangs after {HANG:.0f} s")
        clusters |= {path.name for path in temporary.glob("pidoc-*/c-*")}
    end = time.monotonic() + GONE
    while (left := of_run(temporary)) and time.monotonic() < end:
        time.sleep(0.2)
    if engine == "docker":
        left += containers_of(clusters)
    wrong += [f"left behind: {each}" for each in left]
    said = (folder / "output").read_text(errors="replace")
    if what == "none" and process.returncode:
        wrong.append("it failed, and nothing was killed")
    named = KILLS[what][1] if what in KILLS else ""
    if named and not any(each in said for each in named.split("|")):
        wrong.append(f"nothing in its report says {named!r}")
    if "INTERNALERROR" in said:
        wrong.append("INTERNALERROR")
    return wrong


@pytest.mark.parametrize(
    "engine", [pytest.param("local", marks=pytest.mark.qemu), pytest.param("docker", marks=pytest.mark.docker)]
)
def test_nothing_is_left_of_what_was_killed(
    engine: str,
    short_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    """Not within ten seconds; nothing hangs, and the report of each failure names its cause."""
    settings = Settings.load()
    build_image(settings.spec(), settings, Progress())
    full = pytestconfig.getoption("--soak", "short") == "full"
    restart = pytestconfig.getoption("--soak-restart-docker", None)
    kinds = [what for what, (engines, _) in KILLS.items() if engine in engines and (what != "daemon" or restart)]
    seed = random.randrange(2**32)
    chance, tally = random.Random(seed), Tally()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIDOC_")},
        "PIDOC_CACHE_DIR": str(settings.cache_dir),
        "PIDOC_REQUIRE": "yes",
        "RESTART": restart or "",
    }
    for number in range(RUNS["full" if full else "short"]):
        what = chance.choice(kinds) if full else [*kinds, "none"][number % (len(kinds) + 1)]
        wrong = disturb(what, engine, short_path / str(number), environment, chance)
        tally.starts += STARTS
        tally.kills[what] = tally.kills.get(what, 0) + 1
        if wrong:
            tally.wrong.append(f"run {number}, {what}: {'; '.join(wrong)}")
            tally.wrong.append(errors_in(short_path / str(number) / "output"))
    record_property("kills", f"{engine}, {tally} (seed {seed})")
    assert not tally.wrong, "\n".join(tally.wrong)
