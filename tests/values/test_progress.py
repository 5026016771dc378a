"""Progress: what is being done now, and since when."""

import io

from pytest_pidoc.values.progress import Progress, TerminalProgress


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
