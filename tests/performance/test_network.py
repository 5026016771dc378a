"""The reports of ``lan`` and ``rates``."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pytest_pidoc.bench.stopwatch import Lap
from pytest_pidoc.errors import BootError, EngineUnavailable, PidocError
from pytest_pidoc.settings.spec import Settings
from pytest_pidoc.values.progress import Progress
from tests.performance import rates
from tests.performance.lan import LanReport
from tests.performance.rates import Rate, RatesReport

LAN = LanReport(
    host="2 CPUs",
    engine="local",
    qemu="QEMU 10.0.2",
    model="pi3-virt",
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
RATES = RatesReport("2 CPUs", "local", "QEMU 10.0.2", (Rate("pi3", "disk read", 0.25, PLAIN, NODE),))


def test_lan_report_shows_what_was_asked_for_and_what_came() -> None:
    rows = {line.partition("  ")[0]: line.rpartition("  ")[2] for line in str(LAN).splitlines()}

    assert rows["three nodes ready, with a LAN"] == "2.10 (2.00 to 2.20) s"
    assert rows["answers from the other group of a partition"] == "0 of 500"
    assert rows["answers within a group"] == "249 of 250"
    assert rows["added to a round trip, of 0.2 s asked for"] == "0.203 s"
    assert rows["lost of 1000 packets, of 10% asked for"] == "9.9%"
    assert rows["ratio of the medians"] == "1.20"


def test_rates_report_compares_neighbours() -> None:
    """Each pair gives a ratio of its own: what the host did meanwhile met both of it."""
    *_, row, host, _ = str(RATES).splitlines()

    assert " ".join(row.split()) == (
        "pi3 disk read 0.25 0.07 (0.03 to 0.13) 0.07 (0.07 to 0.13) 1.00 (0.50 to 4.00) 1.00 (1.00 to 2.00)"
    )
    assert host == "2 CPUs; engine local, QEMU 10.0.2"


def test_a_model_that_cannot_be_measured_is_named() -> None:
    """It is a failure only if this host's QEMU supports it."""
    report = dataclasses.replace(RATES, obstacles={"pi4": "The model pi4 needs QEMU 9.0 or newer."})

    assert "\npi4: The model pi4 needs QEMU 9.0 or newer.\n" in str(report)
    assert RATES.ok
    assert report.ok
    assert not dataclasses.replace(report, failed=("pi4",)).ok


@pytest.mark.parametrize(
    ("error", "failed"),
    [(EngineUnavailable("The model pi4 needs QEMU 9.0."), ()), (BootError("pi-1 died."), ("pi4",))],
    ids=["not supported", "broken"],
)
def test_a_model_that_fails_is_told_from_one_that_qemu_lacks(
    error: PidocError, failed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are named, and the other models are measured all the same."""

    def measured(settings: Settings, port: int, **_: object) -> tuple[str, list[Rate]]:
        if settings.model == "pi4":
            raise error
        return "QEMU 10.0.2", list(RATES.rates)

    monkeypatch.setattr(rates, "_measure", measured)
    monkeypatch.setattr(rates, "choose", lambda engine: engine)

    report = rates.rates(Settings(), runs=1, progress=Progress(), names=("pi4", "pi3"))

    assert report.rates == RATES.rates
    assert report.obstacles == {"pi4": error.what}
    assert report.failed == failed


@pytest.mark.parametrize("report", [LAN, RATES], ids=["lan", "rates"])
def test_report_as_json(report: LanReport | RatesReport) -> None:
    """With the ratios, so that a script need not compute them."""
    told = json.loads(json.dumps(report.to_dict()))

    assert told.get("ratio") == pytest.approx(1.2) or told["ratios"] == [{"rate": 1.0, "work": 1.0}]
