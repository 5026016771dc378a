"""The reports of ``pidoc bench lan`` and ``rates``."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pytest_pidoc.bench.lan import LanReport
from pytest_pidoc.bench.rates import ENOUGH, Rate, RatesReport, size_for
from pytest_pidoc.bench.stopwatch import Lap

LAN = LanReport(
    host="2 CPUs",
    model="pi3-virt",
    qemu="QEMU 10.0.2",
    ready={"with": (2.1, 2.0, 2.2), "without": (1.9, 2.0, 1.8)},
    crossed=(0, 500),
    answered=(249, 250),
    healed=(0.1, 0.2, 0.3),
    delay=0.2034,
    lost=0.099,
    carried=(20e6, 30e6, 40e6),
    plain=(20e6, 25e6, 30e6),
)

PLAIN = (Lap(2.0, 1.0), Lap(4.0, 1.0), Lap(8.0, 2.0))
NODE = (Lap(4.0, 1.0), Lap(4.0, 2.0), Lap(2.0, 2.0))
RATES = RatesReport("2 CPUs", "QEMU 10.0.2", (Rate("pi3", "disk read", 0.25, PLAIN, NODE),))


def test_lan_report_shows_what_was_asked_for_and_what_came() -> None:
    rows = {line.partition("  ")[0]: line.rpartition("  ")[2] for line in str(LAN).splitlines()}

    assert rows["three nodes ready, with a LAN"] == "2.10 (2.00 to 2.20) s"
    assert rows["answers from the other group of a partition"] == "0 of 500"
    assert rows["answers within a group"] == "249 of 250"
    assert rows["added to a round trip, of 0.2 s asked for"] == "0.203 s"
    assert rows["lost of 1000 packets, of 10% asked for"] == "9.9%"
    assert rows["ratio of the medians"] == "1.20"


def test_rates_report_compares_neighbours() -> None:
    """Each pair gives a ratio of its own: what this machine did meanwhile met both of it."""
    *_, row, host, _ = str(RATES).splitlines()

    assert " ".join(row.split()) == (
        "pi3 disk read 0.25 0.07 (0.03 to 0.13) 0.07 (0.07 to 0.13) 1.00 (0.50 to 4.00) 1.00 (1.00 to 2.00)"
    )
    assert host == "2 CPUs; engine local, QEMU 10.0.2"


def test_a_model_that_cannot_be_measured_is_named() -> None:
    """The others are measured all the same."""
    report = dataclasses.replace(RATES, obstacles={"pi4": "The model pi4 needs QEMU 9.0 or newer."})

    assert "\npi4: The model pi4 needs QEMU 9.0 or newer.\n" in str(report)
    assert RATES.ok
    assert not report.ok


@pytest.mark.parametrize("rate", [0.1, 20.0, 100.0])
def test_a_size_is_one_that_takes_long_enough(rate: float) -> None:
    """A slow network and a fast disk are measured for about as long."""
    moved = []

    def measure(size: int) -> float:
        moved.append(size)
        return size / rate

    size = size_for(measure, 512)

    assert ENOUGH <= size / rate <= max(2 * ENOUGH, 1 / rate)
    assert size == moved[-1]


def test_one_slow_measurement_does_not_make_a_size() -> None:
    """The first may have had to wait for something."""
    slow = iter([60.0])

    assert size_for(lambda size: next(slow, size / 20), 512) >= 20 * ENOUGH


def test_a_size_has_an_end() -> None:
    """However fast it is, it must lie on a disk."""
    assert size_for(lambda size: size / 1e6, 512) == 512


@pytest.mark.parametrize("report", [LAN, RATES], ids=["lan", "rates"])
def test_report_as_json(report: LanReport | RatesReport) -> None:
    """With the ratios, so that a script need not compute them."""
    told = json.loads(json.dumps(report.to_dict()))

    assert told.get("ratio") == pytest.approx(1.2) or told["ratios"] == [{"rate": 1.0, "work": 1.0}]
