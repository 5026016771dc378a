"""What has to be put right on a restored machine before it goes on, because QEMU has not saved it."""

from __future__ import annotations

from pytest_pidoc import qemu
from pytest_pidoc.engines.engine import Launch
from pytest_pidoc.qmp import Monitor

__all__ = ["apply"]


def apply(launch: Launch, monitor: Monitor) -> None:
    """Repair a machine that has read its state and stands still.

    Raises
    ------
    MonitorError
        QEMU refused something.
    """
    if launch.machine.plugs_network:
        _plug_network(launch, monitor)


def _plug_network(launch: Launch, monitor: Monitor) -> None:
    """Plug the network card in: QEMU can neither save the state of a ``usb-net`` nor unplug one (up to 10.0)."""
    driver, *settings = qemu.network_card(launch).split(",")
    # Into the port of the controller itself: without a port QEMU puts a hub in between.
    monitor.execute("device_add", driver=driver, port="1", **dict(setting.split("=", 1) for setting in settings))
