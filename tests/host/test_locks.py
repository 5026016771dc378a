"""Locks between processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import Steps

from pytest_pidoc.errors import PidocError
from pytest_pidoc.host.locks import locked

HOLDER = """
import pathlib, sys, time
from pytest_pidoc.host.locks import locked
with locked(pathlib.Path(sys.argv[1]), purpose="building a thing", timeout=0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds ``tmp_path/a.lock``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_wait_for_another_process_is_bounded_and_names_it(tmp_path, holder):
    """Whoever waits is told for whom, and gives up after the time given."""
    steps, start = Steps(), time.monotonic()

    with (
        pytest.raises(PidocError, match=rf"process {holder.pid} \(building a thing\)"),
        locked(tmp_path / "a.lock", purpose="the same", timeout=0.3, progress=steps),
    ):
        pytest.fail("got a lock that another process holds")

    assert 0.25 < time.monotonic() - start < 5
    assert len(steps.texts) == 1
    assert f"waiting for process {holder.pid} (building a thing)" in steps.texts[0]


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    """SIGKILL of the holder frees the lock for the one who waits."""
    threading.Timer(0.2, os.kill, (holder.pid, signal.SIGKILL)).start()

    with locked(tmp_path / "a.lock", purpose="the next", timeout=30):
        assert (tmp_path / "a.holder").read_text() == f"process {os.getpid()} (the next)\n"


def test_a_free_lock_is_taken_without_a_word(tmp_path):
    """No wait, no report; and it can be taken again afterwards."""
    steps = Steps()

    for _ in range(2):
        with locked(tmp_path / "a.lock", purpose="a", timeout=0, progress=steps):
            pass

    assert steps.texts == []
    assert not (tmp_path / "a.holder").exists()


def _count(path, total):
    for _ in range(50):
        with locked(path / "a.lock", purpose="counting", timeout=30):
            total.write_text(str(int(total.read_text()) + 1))


def test_only_one_process_at_a_time_is_inside(tmp_path):
    """Four processes that each read, add one and write lose no count."""
    total = tmp_path / "total"
    total.write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path, total)) for _ in range(4)]

    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert total.read_text() == "200"
