"""The subject ``power-cuts``: a node loses power amid synced writes; every record that it reported must be there."""

from __future__ import annotations

import io
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pytest_pidoc.bench import SPREAD, host, spread
from pytest_pidoc.bench.report import Report
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import BootError, PidocError
from pytest_pidoc.node import Node
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.deadline import Deadline
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

__all__ = ["FIRST", "CutReport", "PowerCut", "lost", "power_cuts"]

FIRST = 16  # records that are reported before the power is cut: without any, nothing could be lost
LONGEST = 2.0  # seconds from then until the power is cut, at most
RECORD = 16  # bytes
WRITER_TIMEOUT = 60.0  # seconds, for the writer to report the first records

# Appends numbered records, every 16th a file of its own too, amid writes that it does not sync, and reports each on the
# serial port when `fsync` has returned: what is in the serial log has been promised.
_WRITER = b"""
import os, sys
report = os.open(sys.argv[1], os.O_WRONLY | os.O_NOCTTY)
os.mkdir(sys.argv[2])
os.chdir(sys.argv[2])
here = os.open(".", os.O_RDONLY)
records = os.open("records", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
noise = os.open("noise", os.O_WRONLY | os.O_CREAT)
number = 0
while True:
    line = b"%015d\\n" % number
    os.pwrite(noise, line * 4096, number * 7919 % 512 * 65536)
    os.write(records, line)
    os.fsync(records)
    if number % 16 == 0:
        own = os.open("draft", os.O_WRONLY | os.O_CREAT)
        os.write(own, line)
        os.fsync(own)
        os.close(own)
        os.rename("draft", "record-%d" % number)
        os.fsync(here)
    os.write(report, b"synced " + line)
    number += 1
"""
_REPORTED = re.compile(rb"synced (\d{15})\r?\n")


@dataclass(frozen=True)
class PowerCut:
    """One power cut.

    Attributes
    ----------
    after
        Seconds from the report of the first records to the cut.
    reported
        How many records had been reported as synced.
    lost
        The numbers of the records that were missing afterwards.
    complaints
        The kernel's messages about file system or disk errors afterwards; or why the node did not start again.
    on
        Seconds until the node was ready again; 0 if it did not start again.
    """

    after: float
    reported: int
    lost: tuple[int, ...] = ()
    complaints: str = ""
    on: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, and the file system has no error."""
        return not self.lost and not self.complaints


@dataclass(frozen=True)
class CutReport(Report):
    """What was lost in power cuts, with the model that was measured."""

    model: str
    cuts: tuple[PowerCut, ...]

    @property
    def ok(self) -> bool:
        """Whether every reported record was there after every cut."""
        return all(cut.ok for cut in self.cuts)

    def body(self) -> str:
        """Return one row for all cuts."""
        head = ("cuts", "bad", "records synced", "lost", "cut after s", "on again s")
        row = (
            len(self.cuts),
            sum(not cut.ok for cut in self.cuts),
            sum(cut.reported for cut in self.cuts),
            sum(len(cut.lost) for cut in self.cuts),
            spread([cut.after for cut in self.cuts]),
            spread([cut.on for cut in self.cuts]),
        )
        return table(head, [row])

    def notes(self) -> list[str]:
        """Return where it was, and what each bad cut lost."""
        return [
            f"{self.where(self.model)}; {SPREAD}",
            *(
                f"cut {number}: {len(cut.lost)} of {cut.reported} records lost {list(cut.lost[:5])} {cut.complaints}"
                for number, cut in enumerate(self.cuts, 1)
                if not cut.ok
            ),
        ]


def power_cuts(settings: Settings, *, cuts: int, progress: Progress) -> CutReport:
    """Cut a node's power *cuts* times at random moments while a program in it writes, and check what was kept.

    Raises
    ------
    PidocError
        The node cannot be started, or its program does not write.
    """
    settings = replace(settings, nodes=1)
    found = []
    with Cluster.up(settings=settings, progress=progress) as cluster:
        engine, qemu = cluster.engine.name, str(cluster.engine.qemu_version(cluster[0].machine.binary))
        _bring_writer(cluster[0])
        for number in range(1, cuts + 1):
            found.append(cut := _cut(cluster[0], f"cut-{number}"))
            progress.step(f"power cut {number} of {cuts}: {len(cut.lost)} of {cut.reported} records lost")
    return CutReport(host(), engine, qemu, settings.model, tuple(found))


def lost(reported: Iterable[int], found: bytes, files: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of the *reported* records that are not both in the file *found* and among the *files*."""
    names = set(files)

    def intact(number: int) -> bool:
        return found[number * RECORD : (number + 1) * RECORD] == b"%015d\n" % number

    return tuple(
        number for number in reported if not intact(number) or (number % 16 == 0 and f"record-{number}" not in names)
    )


def _bring_writer(node: Node) -> None:
    node.put(io.BytesIO(_WRITER), "writer")
    node.run("sync")


def _cut(node: Node, folder: str) -> PowerCut:
    start = node.serial_log.size()
    port = f"/dev/{node.machine.console}"
    node.run(f"sudo -n setsid --fork python3 writer {port} {folder} </dev/null >writer.log 2>&1")
    deadline = Deadline(WRITER_TIMEOUT)
    while len(seen := _REPORTED.findall(node.serial_log.read(start=start))) < FIRST:
        if deadline.expired:
            raise PidocError(
                f"The writer on {node.name} reported {len(seen)} records in {WRITER_TIMEOUT:.0f} s, not {FIRST}.",
                evidence=node.run("cat writer.log").stdout,
            )
        deadline.pause()
    began = time.monotonic()
    time.sleep(random.uniform(0, LONGEST))
    node.power_cut()
    after = time.monotonic() - began
    reported = [int(number) for number in _REPORTED.findall(node.serial_log.read(start=start))]
    began = time.monotonic()
    try:
        node.power_on()
    except BootError as error:
        node.reset()
        _bring_writer(node)
        return PowerCut(after, len(reported), complaints=str(error))
    on = time.monotonic() - began
    records = node.run(f"cat {folder}/records", warn=True).stdout.encode()
    files = node.run(f"ls {folder}", warn=True).stdout.split()
    complaints = node.run("sudo -n dmesg | grep -iE 'EXT4-fs (error|warning)|I/O error'", warn=True).stdout
    node.run(f"sudo -n rm -rf {folder}")
    return PowerCut(after, len(reported), lost(reported, records, files), complaints.strip(), on)
