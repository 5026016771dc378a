"""The table of models."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess

import pytest

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.images.debian.recipe import ARCHITECTURES
from pytest_pidoc.machines import MIB, MODELS, Machine, machine
from pytest_pidoc.qemu.program import QemuVersion
from pytest_pidoc.settings.table import DEFAULT_MODEL

every_model = pytest.mark.parametrize("row", MODELS.values(), ids=list(MODELS))


def test_default_model_is_in_the_table() -> None:
    """The model that is taken when none is named exists."""
    assert machine(DEFAULT_MODEL) is MODELS[DEFAULT_MODEL]


@every_model
def test_row_is_found_under_its_name(row: Machine) -> None:
    """A row's key and its name agree."""
    assert machine(row.name) is row


@every_model
def test_row_is_possible(row: Machine) -> None:
    """Memory is whole MiB, and cores and boot time are positive."""
    assert row.memory % MIB == 0
    assert row.memory > 0
    assert row.cores >= 1
    assert row.cold_boot > 0


@every_model
def test_revision_code_is_the_boards(row: Machine) -> None:
    """It has Raspberry Pi's new style, and names the model and the processor; a board's memory, too."""
    if not (row.tree or row.board):
        assert row.revision == 0
        return
    model, processor = {"0": (0x9, 0), "1": (0x2, 0), "2": (0x4, 1), "3": (0x8, 2), "4": (0x11, 3)}[row.name[2]]

    assert row.revision >> 23 == 1
    assert row.revision >> 4 & 0xFF == model
    assert row.revision >> 12 & 0xF == processor
    if row.tree:
        assert 256 * MIB << (row.revision >> 20 & 0x7) == row.memory


@every_model
def test_console_and_agent_are_connected_once(row: Machine) -> None:
    """Each has one port: on the boards both are UARTs, elsewhere the agent's is virtio-serial's."""
    assert row.serial_ports.count("console") == 1
    assert row.serial_ports.count("agent") == (1 if row.agent else 0)
    assert set(row.serial_ports) <= {"console", "agent", "none"}


@every_model
def test_default_recipe_knows_the_architecture(row: Machine) -> None:
    """The default image can be built for every model."""
    assert row.architecture in ARCHITECTURES


@pytest.mark.qemu
@every_model
def test_qemu_knows_the_machine(row: Machine) -> None:
    """QEMU has the machine, the CPU and the devices that the row names."""
    if shutil.which(row.binary) is None:
        pytest.skip(f"{row.binary} is not installed")
    named = (row.disk, row.network, *row.devices)
    devices = [device.partition(",")[0] for device in named if device != "nic" and not device.startswith("if=")]

    def listed(*arguments: str) -> str:
        done = subprocess.run([row.binary, *arguments], capture_output=True, text=True, check=True, timeout=30)
        return done.stdout + done.stderr

    version = QemuVersion.parse(listed("--version"))
    if version.numbers < row.least_qemu:
        assert f"\n{row.machine} " not in listed("-machine", "help")
        return
    assert f"\n{row.machine.partition(',')[0]} " in listed("-machine", "help")
    assert row.cpu in listed("-machine", row.machine, "-cpu", "help").split()
    known = listed("-device", "help")
    assert [device for device in devices if f'name "{device}"' not in known] == []


def test_rows_cannot_be_changed() -> None:
    """A row is a value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        machine(DEFAULT_MODEL).cores = 8


@pytest.mark.parametrize("name", ["", "pi9", "PI3-VIRT", " pi3-virt"])
def test_unknown_model_is_refused_with_those_that_exist(name: str) -> None:
    """The error names what was asked for and every model that there is."""
    with pytest.raises(SettingsError) as caught:
        machine(name)

    assert repr(name) in caught.value.what
    assert all(known in caught.value.tip for known in MODELS)
