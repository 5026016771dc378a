"""Progress: what is being done now, and since when."""

import io

from pytest_pidoc.values.progress import CopyProgress, Progress, TerminalProgress


def test_terminal_progress_prints_each_step_with_the_seconds_since_the_first():
    """A reader sees what is being done now and how long it has taken so far."""
    stream, times = io.StringIO(), iter([100.0, 100.5, 161.25])
    progress = TerminalProgress(stream, clock=lambda: next(times))

    progress.step("downloading")
    progress.step("unpacking")
    progress.step("writing")

    assert stream.getvalue().splitlines() == [
        "[   0.0 s] downloading",
        "[   0.5 s] unpacking",
        "[  61.2 s] writing",
    ]


def test_the_default_is_silent(capsys):
    """Code that reports its steps prints nothing unless a face listens."""
    Progress().step("downloading")

    assert capsys.readouterr() == ("", "")


def test_copy_is_reported_once_it_takes_long():
    """After two seconds and then every ten: how far, how fast, how long still; another job's time begins anew."""
    stream, now = io.StringIO(), [100.0]
    progress = TerminalProgress(stream, clock=lambda: now[0])
    progress.step("starting")
    now[0] = 200.0
    copy = CopyProgress(progress, "build to pi-1", 55_000_000, clock=lambda: now[0])

    for second in range(15):
        now[0] = 200.0 + second
        copy.add(150_000)

    assert stream.getvalue().splitlines()[1:] == [
        "[   2.0 s] copying build to pi-1: 0.5 of 55.0 MB, 0.23 MB/s, 4 min left",
        "[  12.0 s] copying build to pi-1: 1.9 of 55.0 MB, 0.16 MB/s, 5 min left",
    ]


def test_copy_of_unknown_size():
    """How far and how fast is said."""
    stream, now = io.StringIO(), [0.0]
    copy = CopyProgress(TerminalProgress(stream, clock=lambda: now[0]), "logs from pi-1", clock=lambda: now[0])
    now[0] = 4.0
    copy.at(2_000_000, None)

    assert stream.getvalue() == "[   4.0 s] copying logs from pi-1: 2.0 MB, 0.50 MB/s\n"
