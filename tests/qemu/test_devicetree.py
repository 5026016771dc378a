"""Device trees of boards."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import fdt
import pytest
from support import make_image, make_launch

from pytest_pidoc.engines.local import LocalEngine
from pytest_pidoc.errors import ImageError
from pytest_pidoc.images.store.cache import image_file
from pytest_pidoc.lifecycle.attempt import launch_of
from pytest_pidoc.lifecycle.provision import Provision
from pytest_pidoc.machines import MIB, MODELS
from pytest_pidoc.qemu import devicetree
from pytest_pidoc.settings.spec import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_pidoc.images.store.image import Image


def board() -> fdt.FDT:
    """Return a tree with some of the nodes of a Raspberry Pi 4's."""
    blob = fdt.FDT()
    blob.add_item(fdt.PropStrings("model", "Raspberry Pi 4 Model B"), "/")
    for path in ("soc", "soc/mmc@7e300000", "soc/mmc@7e300000/wifi@1", "soc/usb@7e980000", "soc/hdmi@7ef00700"):
        parent, _, name = path.rpartition("/")
        blob.add_item(fdt.Node(name), f"/{parent}")
    blob.set_property("dr_mode", "peripheral", "/soc/usb@7e980000")
    blob.add_item(fdt.Property("non-removable"), "/soc/mmc@7e300000")
    return blob


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "bcm2711-rpi-4-b.dtb"
    path.write_bytes(board().to_dtb(version=17))
    return path


def with_tree(image: Image, blob: Path) -> Image:
    """Return *image* with a tree that a user gave."""
    (image.path / "given.dtb").write_bytes(blob.read_bytes())
    files = {**image.manifest.files, "dtb": image_file(image.path / "given.dtb")}
    return dataclasses.replace(image, manifest=dataclasses.replace(image.manifest, files=files))


def test_what_qemus_board_lacks_is_disabled(blob: Path) -> None:
    """A driver that touches it would panic the kernel; USB is a host, and the card is where QEMU has it."""
    edited = fdt.parse_dtb(devicetree.edited(blob, MODELS["pi4"]))

    assert edited.get_property("status", "/soc/hdmi@7ef00700").value == "disabled"
    assert edited.get_property("dr_mode", "/soc/usb@7e980000").value == "host"
    assert edited.exist_property("broken-cd", "/soc/mmc@7e300000")
    assert not edited.exist_property("non-removable", "/soc/mmc@7e300000")
    assert not edited.exist_node("/soc/mmc@7e300000/wifi@1")
    assert list(edited.get_property("reg", "/ram@40000000")) == [0, 0x40000000, 0x40000000]
    assert edited.get_property("model", "/").value == "Raspberry Pi 4 Model B"


@pytest.mark.parametrize(("model", "mode"), [("pi1", "otg"), ("pi0", "host")])
def test_pi_of_the_first_generation_has_its_second_uart(tmp_path: Path, model: str, mode: str) -> None:
    """It is the agent's port; and the Zero's USB port, which asks a pin that QEMU lacks, is a host."""
    blob = fdt.FDT()
    for parent, name in (("/", "soc"), ("/soc", "serial@7e215040"), ("/soc", "usb@7e980000")):
        blob.add_item(fdt.Node(name), parent)
    blob.set_property("status", "disabled", "/soc/serial@7e215040")
    blob.set_property("dr_mode", "otg", "/soc/usb@7e980000")
    (tmp_path / "pi.dtb").write_bytes(blob.to_dtb(version=17))

    edited = fdt.parse_dtb(devicetree.edited(tmp_path / "pi.dtb", MODELS[model]))

    assert edited.get_property("status", "/soc/serial@7e215040").value == "okay"
    assert edited.get_property("dr_mode", "/soc/usb@7e980000").value == mode


def test_ports_are_the_first_of_their_kinds(blob: Path) -> None:
    """Trees number them in two ways, and the Pi's kernel has only one port like the second."""
    named = fdt.parse_dtb(blob.read_bytes())
    named.add_item(fdt.Node("aliases"), "/")
    for name, path in (("serial0", "/soc/serial@7e215040"), ("serial1", "/soc/serial@7e201000"), ("mmc0", "/soc/mmc")):
        named.set_property(name, path, "/aliases")
    blob.write_bytes(named.to_dtb(version=17))

    edited = fdt.parse_dtb(devicetree.edited(blob, MODELS["pi4"]))

    assert [each.name for each in edited.get_node("/aliases").props] == ["mmc0"]


def test_the_pis_own_tree_has_the_card_where_qemu_has_it(tmp_path: Path) -> None:
    """Its kernel has a driver of its own for the Wi-Fi at the older controller, which must leave that alone.

    And the card is ``/dev/mmcblk0``, whichever controller the tree numbers first.
    """
    blob = board()
    blob.add_item(fdt.Node("emmc2bus"), "/")
    blob.add_item(fdt.Node("emmc2@7e340000"), "/emmc2bus")
    blob.add_item(fdt.Node("mmcnr@7e300000"), "/soc")
    blob.add_item(fdt.Node("aliases"), "/")
    for name, path in (("mmc0", "/emmc2bus/emmc2@7e340000"), ("mmc1", "/soc/mmcnr@7e300000")):
        blob.set_property(name, path, "/aliases")
    (tmp_path / "pi.dtb").write_bytes(blob.to_dtb(version=17))

    edited = fdt.parse_dtb(devicetree.edited(tmp_path / "pi.dtb", MODELS["pi4"]))

    for path, status in (
        ("/soc/mmc@7e300000", "okay"),
        ("/soc/mmcnr@7e300000", "disabled"),
        ("/emmc2bus/emmc2@7e340000", "disabled"),
    ):
        assert edited.get_property("status", path).value == status
    assert edited.get_property("mmc0", "/aliases").value == "/soc/mmc@7e300000"


@pytest.mark.parametrize("name", [row.name for row in MODELS.values() if row.tree])
def test_firmwares_part_of_the_tree_is_there(blob: Path, name: str) -> None:
    """The board has its revision code, and a seed that QEMU fills."""
    row = MODELS[name]

    edited = fdt.parse_dtb(devicetree.edited(blob, row))

    assert list(edited.get_property("linux,revision", "/system")) == [row.revision]
    assert list(edited.get_property("rng-seed", "/chosen")) == [0] * 8  # words of four bytes


def test_firmwares_part_of_the_users_tree_stays(blob: Path) -> None:
    """A tree that was read on a real board has that board's revision code."""
    given = fdt.parse_dtb(blob.read_bytes())
    given.add_item(fdt.Node("system"), "/")
    given.add_item(fdt.PropWords("linux,revision", 0xC03111), "/system")
    blob.write_bytes(given.to_dtb(version=17))

    edited = fdt.parse_dtb(devicetree.edited(blob, MODELS["pi4"]))

    assert list(edited.get_property("linux,revision", "/system")) == [0xC03111]


def test_tree_of_another_board_is_left_as_it_is(blob: Path) -> None:
    """Nothing is added to a tree whose board needs nothing."""
    assert devicetree.edited(blob, MODELS["pi3-virt"]) == blob.read_bytes()


def test_reserved_memory_is_each_trees_own(tmp_path: Path) -> None:
    """What one tree reserves is in no other, and stays in the one."""
    for name, addresses in (("first", [0x1000]), ("second", []), ("third", [0x2000, 0x3000])):
        blob = board()
        blob.entries = [{"address": address, "size": 0x1000} for address in addresses]
        (tmp_path / name).write_bytes(blob.to_dtb(version=17))

    for name in ("first", "second", "third"):
        assert devicetree.edited(tmp_path / name, MODELS["pi3-virt"]) == (tmp_path / name).read_bytes()


def test_users_own_tree_comes_first(tmp_path: Path, blob: Path) -> None:
    """What the user gave as dtb is taken in place of the image's."""
    given = with_tree(make_image(tmp_path / "image"), blob)

    tree = devicetree.tree(make_launch(tmp_path / "node", given, machine=MODELS["pi4"]), LocalEngine())

    assert tree is not None
    assert fdt.parse_dtb(tree).get_property("dr_mode", "/soc/usb@7e980000").value == "host"


def test_virtual_machine_has_qemus_tree(tmp_path: Path) -> None:
    """QEMU describes the machine virt itself."""
    assert devicetree.tree(make_launch(tmp_path / "node", make_image(tmp_path / "image")), LocalEngine()) is None


def test_image_without_the_boards_tree_is_refused(tmp_path: Path) -> None:
    """The error names the tree, the model and what to do."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS["pi4"])

    with pytest.raises(ImageError, match=r"no device tree dtb/bcm2711-rpi-4-b for pi4") as caught:
        devicetree.tree(launch, LocalEngine())

    assert "--pidoc-dtb" in caught.value.tip


def test_file_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    """Whatever the parser makes of it."""
    (tmp_path / "bad.dtb").write_bytes(b"no tree at all")

    with pytest.raises(ImageError, match=r"Cannot read .* as a device tree"):
        devicetree.edited(tmp_path / "bad.dtb", "raspi4b")


def test_board_is_announced_before_qemus_machine() -> None:
    """Software that looks for a board finds it first; the rest of the tree is left as it is."""
    blob = fdt.FDT()
    blob.add_item(fdt.PropStrings("model", "linux,dummy-virt"), "/")
    blob.add_item(fdt.PropStrings("compatible", "linux,dummy-virt"), "/")
    blob.add_item(fdt.Node("chosen"), "/")
    blob.add_item(fdt.PropStrings("stdout-path", "/pl011@9000000"), "/chosen")

    announced = fdt.parse_dtb(devicetree.announcing(MODELS["pi2-virt"], blob.to_dtb(version=17)))

    assert announced.get_property("model").value == "Raspberry Pi 2 Model B Rev 1.1"
    assert list(announced.get_property("compatible")) == ["raspberrypi,2-model-b", "brcm,bcm2836", "linux,dummy-virt"]
    assert announced.get_property("stdout-path", "/chosen").value == "/pl011@9000000"
    assert list(announced.get_property("linux,revision", "/system")) == [0xA01041]
    assert list(announced.get_property("rng-seed", "/chosen")) == [0] * 8  # words of four bytes


def test_board_is_announced_in_the_users_own_tree(tmp_path: Path, blob: Path) -> None:
    """What the user gave as dtb is not replaced by QEMU's."""
    given = with_tree(make_image(tmp_path / "image"), blob)
    launch = make_launch(tmp_path / "node", given, announce_board=True)

    tree = devicetree.tree(launch, LocalEngine())

    assert tree is not None
    assert fdt.parse_dtb(tree).get_property("model").value == launch.machine.board
    assert fdt.parse_dtb(tree).exist_node("/soc/hdmi@7ef00700")


@pytest.mark.qemu
@pytest.mark.usefixtures("clusters")
@pytest.mark.parametrize("name", [row.name for row in MODELS.values() if row.board])
def test_announced_board_is_qemus_machine_otherwise(tmp_path: Path, name: str) -> None:
    """CPUs and memory are those of the machine that QEMU makes, and the same tree comes out each time."""
    image, row = make_image(tmp_path / "image"), MODELS[name]
    launch = make_launch(tmp_path / "node", image, machine=row, memory=768 * MIB, announce_board=True)

    first, again = (devicetree.tree(launch, LocalEngine()) for _ in range(2))

    assert first is not None
    assert first == again
    tree = fdt.parse_dtb(first)
    cpus = [node for node in tree.get_node("/cpus").nodes if node.name.startswith("cpu@")]
    assert len(cpus) == row.cores
    assert cpus[0].get_property("compatible").value == f"arm,{row.cpu}"
    assert list(tree.get_property("reg", "/memory@40000000")) == [0, 0x40000000, 0, 768 * MIB]
    assert list(tree.get_property("compatible")) == [*row.compatible, "linux,dummy-virt"]


@pytest.mark.parametrize("name", MODELS)
def test_boards_announce_themselves(tmp_path: Path, name: str) -> None:
    """Asking it of all models in a run is no error, and changes nothing for a board."""
    spec = Settings(announce_board=True).spec({"model": name})
    found = Provision(make_image(tmp_path / "image"), LocalEngine())

    assert launch_of(spec, found, tmp_path, 1).announce_board is (MODELS[name].machine == "virt")
