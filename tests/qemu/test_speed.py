"""How long a boot may take here."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import EngineUnavailable
from pytest_pidoc.machines import MODELS
from pytest_pidoc.qemu import speed

PI = MODELS["pi3-virt"]
SLOW_BOOT = dataclasses.replace(PI, cold_boot=100.0)


def timeout(nodes: int = 1, probed: float = speed.PROBE_REFERENCE, *, processors: int = 2) -> float:
    return speed.boot_timeout(SLOW_BOOT, nodes, probed, processors=processors)


def test_reference_host_gets_a_margin() -> None:
    """Where the boot time was measured, a boot may take some times that long."""
    assert timeout() == pytest.approx(speed.MARGIN * 100)


def test_host_of_half_the_speed_gets_twice_the_time() -> None:
    """The probe stretches the timeout."""
    assert timeout(probed=2 * speed.PROBE_REFERENCE) == pytest.approx(2 * timeout())


def test_nodes_that_share_processors_get_more_time() -> None:
    """Eight nodes on two processors take four times as long as one."""
    assert timeout(8) == pytest.approx(4 * timeout())


def test_nodes_with_a_processor_each_get_the_same_time() -> None:
    """Nodes that do not crowd each other do not need more time."""
    assert timeout(2) == timeout(1)


def test_fast_host_gets_a_minimum() -> None:
    """Even the fastest machine stalls now and then."""
    assert speed.boot_timeout(PI, 1, 0.001, processors=64) == speed.LEAST


def test_processors_are_counted() -> None:
    """Without a number, those of this host are counted."""
    assert speed.boot_timeout(SLOW_BOOT, 1, speed.PROBE_REFERENCE) >= speed.LEAST


def test_an_image_that_nobody_has_made_fast_gets_more_time() -> None:
    """Raspberry Pi OS starts what a Pi needs, and an emulated machine does not."""
    longer = speed.boot_timeout(SLOW_BOOT, 1, speed.PROBE_REFERENCE, stock=True)

    assert longer == pytest.approx(speed.STOCK * speed.boot_timeout(SLOW_BOOT, 1, speed.PROBE_REFERENCE))


@given(st.integers(1, 250), st.floats(0.01, 60), st.integers(1, 256))
def test_more_nodes_or_a_slower_host_never_get_less(nodes: int, probed: float, processors: int) -> None:
    """The timeout grows with the load and with the probe's time."""
    now = timeout(nodes, probed, processors=processors)

    assert timeout(nodes + 1, probed, processors=processors) >= now
    assert timeout(nodes, probed * 1.5, processors=processors) >= now
    assert timeout(nodes, probed, processors=processors + 1) <= now


@pytest.mark.qemu
def test_probe_runs_its_program_to_the_end() -> None:
    """The probe takes measurable time, and far less than its limit."""
    assert 0.02 < speed.probe(LocalEngine()) < 60


def test_probe_needs_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without QEMU the probe says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineUnavailable, match="qemu-system-aarch64 is not installed"):
        speed.probe(LocalEngine())
