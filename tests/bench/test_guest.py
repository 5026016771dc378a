"""The report of ``pidoc bench guest``, and its plot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_pidoc import cli
from pytest_pidoc.bench.guest import PRIME, GuestReport, Measured, told
from pytest_pidoc.bench.plot import plot, require
from pytest_pidoc.bench.stopwatch import Lap
from pytest_pidoc.errors import PidocError, SettingsError

SAID = """
CPU speed:
    events per second:   593.52

General statistics:
    total time:                          {seconds}s
    total number of events:              {events}

Latency (ms):
         min:                                    1.62
"""


def laps(*seconds: float, share: float, guest: float = 1.0) -> tuple[Lap, ...]:
    return tuple(Lap(each, each * share, SAID.format(seconds=guest * each, events=500)) for each in seconds)


PRIMES = Measured("pi1", PRIME, "s", 500, 1, (laps(10.0, 11.0, 12.0, share=1, guest=0.5), laps(20, 24, 24, share=0.5)))
DISK = Measured("pi1", "disk read", "MB/s", 8, 1.5, (laps(1.0, 2.0, 4.0, share=0.75), laps(2.0, 3.0, 9.0, share=0.25)))
REPORT = GuestReport(
    host="2 CPUs",
    engine="local",
    qemu="QEMU 10.0.2",
    sysbench="sysbench 1.0.20",
    measured=(PRIMES, DISK),
    obstacles={"pi4": "The model pi4 needs QEMU 9.0 or newer."},
)


def words(report: GuestReport) -> list[str]:
    return [" ".join(line.split()) for line in str(report).splitlines()]


def test_sysbench_tells_events_and_seconds() -> None:
    assert told(SAID.format(seconds="16.8461", events=10000)) == (10000, 16.8461)


def test_sysbench_that_tells_something_else() -> None:
    """Its words are shown: another version has others."""
    with pytest.raises(PidocError, match="Maximum prime number"):
        told("Maximum prime number checked in CPU test: 9999\n")


def test_a_time_is_shown_as_it_was_measured() -> None:
    """With the time of half a CPU as a multiple of that of a whole one, and what QEMU used of a processor."""
    row = (
        "pi1 sysbench prime, 500 events s 11.00 (10.00 to 12.00) 24.00 (20.00 to 24.00) 2.00 (2.00 to 2.18) 1.00, 0.50"
    )

    assert words(REPORT)[1] == row


def test_a_rate_is_what_is_done_in_a_second() -> None:
    """Of 8 times 1.5 MB in one, two and four seconds: and half the rate is twice the time."""
    row = "pi1 disk read MB/s 6.00 (3.00 to 12.00) 4.00 (1.33 to 6.00) 2.00 (1.50 to 2.25) 0.75, 0.25"

    assert words(REPORT)[2] == row


def test_fewer_events_are_extrapolated_and_called_so() -> None:
    """Beside the published figures; sysbench's own time is the guest's clock's."""
    said = words(REPORT)

    assert "pi1, extrapolated from 500 220.0 480.0 110.0 220.0" in said
    assert "published: pidoc's emulated Pi 397.9 823.8" in said
    assert "published: Pi 1 330.6" in said


def test_as_many_events_as_published_are_not_extrapolated() -> None:
    assert "pi1 11.0 24.0 5.5 11.0" in words(replace(REPORT, measured=(replace(PRIMES, size=10_000),)))


def test_a_model_that_cannot_be_measured_is_named() -> None:
    """It is a failure only if this host's QEMU supports it."""
    assert "pi4: The model pi4 needs QEMU 9.0 or newer." in words(REPORT)
    assert REPORT.ok
    assert not replace(REPORT, failed=("pi4",)).ok


def test_report_as_json() -> None:
    """For scripts: each measurement, the medians, and the published figures."""
    told = json.loads(json.dumps(REPORT.to_dict()))

    assert told["measured"][0]["laps"][0][1]["seconds"] == 11.0
    assert told["derived"][0] == {"slowdown": 2.0, "used": [1.0, 0.5]}
    assert told["ten_thousand"]["pi1"] == {
        "seconds": [220.0, 480.0],
        "guest's clock": [110.0, 480.0],
        "processor": [220.0, 240.0],
    }
    assert told["published"]["physical"]["Pi 1"] == 330.6
    assert told["published"]["emulated"] == {"1.0": 397.9, "0.5": 823.8}


def test_plot_as_png(tmp_path: Path) -> None:
    plot(REPORT, tmp_path / "primes.png")

    content = (tmp_path / "primes.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(content[16:20], "big") > 1000  # pixels wide


def test_plot_as_svg_has_every_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured and published, and what was extrapolated is called so."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # letters, not curves
    plot(REPORT, tmp_path / "primes.svg")

    text = (tmp_path / "primes.svg").read_text(encoding="utf-8")
    for said in ("220.0 s", "480.0 s", "extrapolated from 500", "330.6 s", "823.8 s", "Pi Zero W", "QEMU 10.0.2"):
        assert said in text


def test_plot_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "there.png").mkdir()

    with pytest.raises(PidocError, match=r"there\.png: Is a directory"):
        plot(REPORT, tmp_path / "there.png")


@pytest.mark.parametrize("name", ["primes.pdf", "primes", "nowhere/primes.png"])
def test_plot_that_is_refused_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--plot: "):
        require(tmp_path / name)


def test_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's extra is named."""
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(__import__("sys").modules, "matplotlib", raising=False)

    with pytest.raises(PidocError, match=r"pytest-pidoc\[plot\]"):
        require(tmp_path / "primes.svg")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench guest --plot a.gif", "--plot: 'a.gif' must end in .png or .svg"),
        ("bench guest --models pi9", "'pi9' is not a known model"),
    ],
)
def test_bad_value_is_wrong_usage(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    assert f"pidoc: {message}" in capsys.readouterr().err
