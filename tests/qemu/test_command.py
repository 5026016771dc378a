"""The command line of QEMU."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make_image, make_launch

from pytest_pidoc.images.store.image import Image, Manifest
from pytest_pidoc.machines import MIB, MODELS
from pytest_pidoc.qemu import command as qemu
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.qemu.overlay import empty_overlay, overlay_command
from pytest_pidoc.values.files import DEVICE_TREE


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return make_launch(tmp_path / "node", make_image(tmp_path / "image"))


def command(launch: Launch) -> list[str]:
    return qemu.arguments(launch, guest=Path("/guest"), forward="tcp:127.0.0.1:0")


def values(arguments: list[str], option: str) -> list[str]:
    """Return what stands behind each *option*."""
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def kernel_arguments(launch: Launch) -> list[str]:
    (line,) = values(command(launch), "-append")
    return line.split()


def test_program_is_the_models(launch: Launch) -> None:
    """The command begins with the QEMU that emulates the model."""
    assert command(launch)[0] == launch.machine.binary


def test_machine_is_the_models(launch: Launch) -> None:
    """Machine, CPU and cores are those of the model's row."""
    arguments = command(launch)

    assert values(arguments, "-machine") == [launch.machine.machine]
    assert values(arguments, "-cpu") == [launch.machine.cpu]
    assert values(arguments, "-smp") == [str(launch.machine.cores)]


def test_memory_is_what_was_asked_for(launch: Launch) -> None:
    """RAM is the launch's, not the model's."""
    assert values(command(dataclasses.replace(launch, memory=768 * MIB)), "-m") == ["768M"]


def test_kernel_and_initrd_are_seen_where_qemu_sees_them(launch: Launch) -> None:
    """Paths are those of the guest's directory as QEMU sees it, which in a container is another."""
    arguments = command(launch)

    assert values(arguments, "-kernel") == ["/guest/kernel"]
    assert values(arguments, "-initrd") == ["/guest/initrd"]


def test_tree_is_given_if_the_board_is_announced(launch: Launch) -> None:
    """QEMU takes the one in the node's directory, and otherwise makes its own."""
    assert values(command(launch), "-dtb") == []
    assert values(command(dataclasses.replace(launch, announce_board=True)), "-dtb") == [DEVICE_TREE]


def test_clock_counts_instructions_if_that_is_asked_for(launch: Launch) -> None:
    """An instruction then takes a power of two of nanoseconds; a model's own rate is the weaker one."""
    board = dataclasses.replace(launch, machine=MODELS["pi1"])

    assert values(command(launch), "-icount") == []
    assert values(command(dataclasses.replace(launch, mips=1000.0)), "-icount") == ["shift=0"]
    assert values(command(dataclasses.replace(launch, mips=15.625)), "-icount") == ["shift=6"]
    assert values(command(board), "-icount") == ["shift=3"]
    assert values(command(dataclasses.replace(board, mips=500.0)), "-icount") == ["shift=1"]


@pytest.mark.parametrize(("model", "cores"), [("pi4-virt", ("2", "1")), ("pi3", ("4", "4"))])
def test_machine_with_a_counter_has_one_core_if_its_clock_counts(launch: Launch, model: str, cores: object) -> None:
    """QEMU would count what the other cores do for a program, too; a board cannot have fewer."""
    usual = dataclasses.replace(launch, machine=MODELS[model])

    each = (command(usual), command(dataclasses.replace(usual, mips=1000.0)))

    assert tuple(values(arguments, "-smp")[0] for arguments in each) == cores


def test_files_are_found_by_their_role(tmp_path: Path) -> None:
    """An image may call its kernel what it likes."""
    image = make_image(tmp_path / "image")
    files = {**image.manifest.files, "kernel": dataclasses.replace(image.manifest.files["kernel"], name="vmlinuz-6.1")}
    named = dataclasses.replace(image, manifest=dataclasses.replace(image.manifest, files=files))

    assert values(command(make_launch(tmp_path / "node", named)), "-kernel") == ["/guest/vmlinuz-6.1"]


def test_kernel_hears_of_root_and_console(launch: Launch) -> None:
    """The guest finds its disk and its serial port; its name it has from its disk, where a user can change it."""
    arguments = kernel_arguments(launch)

    assert f"root={launch.machine.root}" in arguments
    assert f"console={launch.machine.console},115200" in arguments
    assert not any(argument.startswith("systemd.hostname") for argument in arguments)


def test_images_kernel_arguments_come_last(tmp_path: Path) -> None:
    """What the image adds is stronger than what the model says."""
    image = make_image(tmp_path / "image")
    quiet = dataclasses.replace(image, manifest=dataclasses.replace(image.manifest, append="quiet loglevel=3"))

    assert kernel_arguments(make_launch(tmp_path / "node", quiet))[-2:] == ["quiet", "loglevel=3"]


def test_ssh_port_is_forwarded(launch: Launch) -> None:
    """The forward given leads to the guest's SSH port."""
    assert "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22" in values(command(launch), "-netdev")


def test_only_the_overlay_is_written(launch: Launch) -> None:
    """The one disk is the node's own overlay, by its bare name; what it lies on is read only."""
    arguments = command(launch)
    disks = [json.loads(value) for value in values(arguments, "-blockdev")]

    assert [disk["file"]["filename"] for disk in disks if not disk["read-only"]] == []
    (drive,) = values(arguments, "-drive")
    assert "file=overlay.qcow2,backing=layer0," in drive


def test_sockets_and_logs_have_bare_names(launch: Launch) -> None:
    """No path of a socket can be too long: QEMU runs in the node's directory."""
    arguments = command(launch)

    assert not any(str(launch.directory) in argument for argument in arguments)
    assert any("path=qmp.sock" in value for value in values(arguments, "-chardev"))
    assert any(
        "path=console.sock" in value and "logfile=serial.log" in value for value in values(arguments, "-chardev")
    )


def test_nothing_comes_from_the_users_configuration(launch: Launch) -> None:
    """A node is the same on every host."""
    arguments = command(launch)

    assert "-nodefaults" in arguments
    assert "-no-user-config" in arguments
    assert values(arguments, "-display") == ["none"]


@pytest.mark.parametrize("model", MODELS)
def test_models_devices_are_there(tmp_path: Path, model: str) -> None:
    """Disk, network card and whatever else the row names are on the command line."""
    machine = MODELS[model]
    arguments = command(make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=machine))
    devices = values(arguments, "-device")

    if machine.disk.startswith("if="):
        assert any(drive.startswith(machine.disk) for drive in values(arguments, "-drive"))
    else:
        assert f"{machine.disk},drive=disk0" in devices
    cards = values(arguments, "-net") if machine.network == "nic" else devices
    assert any(card.startswith(machine.network) for card in cards)
    assert all(device in devices for device in machine.devices)


def test_versatile_has_a_network_card_of_its_own(tmp_path: Path) -> None:
    """The card is the machine's, the agent has its second serial port, and its sound chip makes no sound."""
    machine = MODELS["pi1-versatile"]
    arguments = command(make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=machine))

    (card,) = values(arguments, "-net")
    assert card.startswith("nic,netdev=net0,macaddr=52:54:00:")
    assert values(arguments, "-serial") == ["chardev:console0", "chardev:agent0"]
    assert values(arguments, "-audiodev") == ["none,id=audio0"]
    assert values(arguments, "-global") == ["pl041.audiodev=audio0"]


def test_board_has_console_and_agent_on_its_serial_ports(tmp_path: Path) -> None:
    """A board has no virtio: the agent's port is the UART that the console leaves free."""
    arguments = command(make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS["pi3"]))

    assert values(arguments, "-serial") == ["chardev:agent0", "chardev:console0"]
    assert not any("virtio" in device for device in values(arguments, "-device"))
    assert values(arguments, "-dtb") == [DEVICE_TREE]


@pytest.mark.parametrize("life", [{"record": True}, {"template": Path("/template")}])
def test_usb_network_card_is_not_there_when_a_board_is_saved_or_restored(
    tmp_path: Path, life: dict[str, object]
) -> None:
    """QEMU cannot save a usb-net, so it is plugged in when the machine has been restored."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS["pi3"], **life)
    template = launch.template
    arguments = qemu.arguments(launch, guest=Path("/guest"), forward="tcp:127.0.0.1:0", template=template)

    assert not any("usb-net" in device for device in values(arguments, "-device"))
    assert any("hostfwd" in netdev for netdev in values(arguments, "-netdev"))
    assert ("pidoc.mac=" in values(arguments, "-append")[0]) == (not launch.record)  # or the guest would wait for it
    (card,) = qemu.network_cards(launch)
    assert card.startswith("usb-net,port=1,id=nic0,netdev=net0,mac=40:54:00:")


def test_two_cards_of_a_board_are_in_a_hub(tmp_path: Path) -> None:
    """It has one port."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS["pi3"], lan="192.168.77.1")

    hub, card, lan = qemu.network_cards(launch)

    assert hub == "usb-hub,port=1,id=hub0"
    assert card.startswith("usb-net,port=1.1,id=nic0,")
    assert lan == f"usb-net,port=1.2,id=lan-card,netdev=lan0,mac={qemu.lan_mac_address(launch)}"


@pytest.mark.parametrize("model", MODELS)
def test_lan_is_connected_to_its_switch(tmp_path: Path, model: str) -> None:
    """A card that is in no LAN calls where nobody listens; the machine is the same, and so is its template."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS[model])
    alone, connected = (command(dataclasses.replace(launch, lan=lan)) for lan in ("", "192.168.77.1"))

    lan = [netdev for netdev in values(connected, "-netdev") if netdev.startswith("stream,")]
    if not MODELS[model].lan:
        assert lan == []
    else:
        assert lan == ["stream,id=lan0,server=off,addr.type=unix,addr.path=lan.sock"]
        if not MODELS[model].plugs_network:
            assert alone == connected


def test_guest_without_internet_is_reached_nevertheless(launch: Launch) -> None:
    netdev = values(command(dataclasses.replace(launch, internet=False)), "-netdev")[0]

    assert netdev == "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"


@pytest.mark.parametrize("model", MODELS)
def test_fork_without_power_boots_from_its_disk(tmp_path: Path, model: str) -> None:
    """Its disk is still the one over the template's; all else is as for a node that was booted in the first place."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS[model])
    fork = dataclasses.replace(launch, template=Path("/template"), booted=True)
    arguments = qemu.arguments(fork, guest=Path("/guest"), forward="tcp:127.0.0.1:0", template=Path("/template"))

    def without_disks(line: list[str]) -> list[str]:
        options = ("-blockdev", "-drive")
        return [each for before, each in itertools.pairwise(["", *line]) if not {before, each} & set(options)]

    disks = [json.loads(value) for value in values(arguments, "-blockdev")]
    assert [disk["file"]["filename"] for disk in disks] == ["/guest/disk.qcow2", "/template/overlay.qcow2"]
    assert "backing=layer1" in values(arguments, "-drive")[0]
    assert without_disks(arguments) == without_disks(command(launch))


@pytest.mark.parametrize("model", MODELS)
def test_cache_of_a_disk_is_one_that_its_guest_can_flush(tmp_path: Path, model: str) -> None:
    """Of a virtio disk it is; an SD card takes no such command, so it has none."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS[model])
    (drive,) = values(command(launch), "-drive")
    cache = [option for option in drive.split(",") if "cache" in option]

    written_through = ["cache.writeback=off", "file.cache.no-flush=on"]
    assert cache == (written_through if launch.machine.disk == "if=sd" else [])


@pytest.mark.parametrize("model", MODELS)
def test_guest_is_told_the_address_of_a_usb_network_card(tmp_path: Path, model: str) -> None:
    """Its driver makes one up at each boot, and QEMU goes on sending to the first one."""
    launch = make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=MODELS[model])
    (append,) = values(command(launch), "-append")

    assert (f"pidoc.mac={qemu.mac_address(launch)}" in append.split()) == MODELS[model].plugs_network


@pytest.mark.parametrize("model", MODELS)
def test_watchdog_that_resets_at_once_is_not_systemds(tmp_path: Path, model: str) -> None:
    """On a board, systemd is told to take the second watchdog, if the initrd is not one that loads softdog first."""
    own = make_image(tmp_path / "image")
    files = {**own.manifest.files, "initrd/board": own.manifest.files["initrd"]}
    debian = dataclasses.replace(own, manifest=dataclasses.replace(own.manifest, files=files))
    told = "systemd.watchdog_device=/dev/watchdog1"

    row = MODELS[model]
    assert told not in kernel_arguments(make_launch(tmp_path / "node", debian, machine=row))
    assert (told in kernel_arguments(make_launch(tmp_path / "other", own, machine=row))) == bool(row.mailbox)


@pytest.mark.parametrize("model", MODELS)
def test_clock_counts_instructions_where_the_timer_is_the_bcm2835s(tmp_path: Path, model: str) -> None:
    """That timer, once set too late, never fires; and only a machine with one processor can count."""
    machine = MODELS[model]
    arguments = command(make_launch(tmp_path / "node", make_image(tmp_path / "image"), machine=machine))

    assert values(arguments, "-icount") == ([] if machine.system_timer is None else ["shift=3"])
    assert machine.system_timer is None or machine.cores == 1


def test_overlay_is_made_over_the_images_disk() -> None:
    """The backing file is the image's disk, and both formats are said rather than guessed."""
    arguments = overlay_command(Path("/guest/disk.qcow2"))

    assert arguments[:2] == ["qemu-img", "create"]
    assert values(arguments, "-b") == ["/guest/disk.qcow2"]
    assert values(arguments, "-F") == ["qcow2"]
    assert arguments[-1] == "overlay.qcow2"


def test_address_of_a_node_is_always_the_same(launch: Launch) -> None:
    """A node that is started again keeps its network card's address."""
    assert qemu.mac_address(launch) == qemu.mac_address(dataclasses.replace(launch, port=2222))


def test_addresses_of_a_cluster_differ(launch: Launch) -> None:
    """No two nodes of a large cluster share an address."""
    nodes = [dataclasses.replace(launch, name=f"pi-{number}") for number in range(250)]

    assert len({qemu.mac_address(node) for node in nodes}) == 250


@given(st.text(), st.text(), st.sampled_from(["pi3", "pi3-virt"]))
def test_every_address_is_locally_administered(cluster: str, node: str, model: str) -> None:
    """Whatever the names, the address is one that QEMU's prefix leaves free."""
    image = Image(Path(), Manifest("debian", "arm64", "", {}, "pi", ()))
    launch = Launch(node, cluster, Path(), MODELS[model], image, 0)

    assert re.fullmatch(r"(52|40):54:00(:[0-9a-f]{2}){3}", qemu.mac_address(launch))


def test_fork_boots_from_its_templates_elf_file(launch: Launch, tmp_path: Path) -> None:
    """The kernel with the initrd in it is the template's, and the kernel is told where the initrd is."""
    (tmp_path / "boot.elf").touch()
    forked = dataclasses.replace(launch, template=tmp_path)
    arguments = qemu.arguments(forked, guest=Path("/guest"), forward="tcp:127.0.0.1:0", template=Path("/template"))

    assert values(arguments, "-kernel") == ["/template/boot.elf"]
    assert values(arguments, "-initrd") == []
    assert "initrdmem=0x48000000," in values(arguments, "-append")[0]


def test_fork_of_a_published_image_boots_its_kernel(launch: Launch, tmp_path: Path) -> None:
    """Where the kernel is in the container only, there is no ELF file made of it."""
    forked = dataclasses.replace(launch, template=tmp_path)
    arguments = qemu.arguments(forked, guest=Path("/guest"), forward="tcp:127.0.0.1:0", template=Path("/template"))

    assert values(arguments, "-kernel") == ["/guest/kernel"]
    assert values(arguments, "-initrd") == ["/guest/initrd"]


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_empty_overlay_is_as_large_as_its_disk(tmp_path: Path) -> None:
    """QEMU finds nothing wrong with it."""
    disk, overlay = tmp_path / "disk.qcow2", tmp_path / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4G"], check=True)

    overlay.write_bytes(empty_overlay(disk))

    subprocess.run(["qemu-img", "check", "-q", overlay], check=True)
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", overlay]))
    assert info["virtual-size"] == 4 * 1024 * MIB


def with_manifest(launch: Launch, **changes: object) -> Launch:
    manifest = dataclasses.replace(launch.image.manifest, **changes)
    return dataclasses.replace(launch, image=dataclasses.replace(launch.image, manifest=manifest))


@pytest.mark.parametrize(
    ("disk", "partition", "root"),
    [
        ("/dev/vda", 0, "/dev/vda"),
        ("/dev/vda", 2, "/dev/vda2"),
        ("/dev/mmcblk0", 0, "/dev/mmcblk0"),
        ("/dev/mmcblk0", 2, "/dev/mmcblk0p2"),
        ("/dev/sda", 2, "/dev/sda2"),
    ],
)
def test_the_root_may_be_a_partition(launch: Launch, disk: str, partition: int, root: str) -> None:
    """A disk whose name ends in a digit has a p before the partition's number, as the kernel names it."""
    machine = dataclasses.replace(launch.machine, root=disk)

    assert f"root={root}" in kernel_arguments(
        with_manifest(dataclasses.replace(launch, machine=machine), partition=partition)
    )


def test_a_device_tree_of_the_users_own_replaces_qemus(launch: Launch) -> None:
    """It is in the node's directory, as those of boards are."""
    files = launch.image.manifest.files

    assert values(command(launch), "-dtb") == []
    assert values(command(with_manifest(launch, files={**files, "dtb": files["kernel"]})), "-dtb") == [DEVICE_TREE]


def test_guests_that_use_dhcp_have_the_same_card_in_all_nodes(launch: Launch) -> None:
    """QEMU gives the address with the forward to the first card that asks, and a saved machine remembers which."""
    others = [dataclasses.replace(launch, name=name) for name in ("pi-1", "pi-2")]

    assert len({qemu.mac_address(each) for each in others}) == 2
    assert len({qemu.mac_address(with_manifest(each, stock=True)) for each in others}) == 1


def test_arguments_of_the_user_come_last(launch: Launch) -> None:
    """Of two with one name, the kernel takes the last."""
    assert kernel_arguments(dataclasses.replace(launch, arguments="mitigations=auto quiet"))[-2:] == [
        "mitigations=auto",
        "quiet",
    ]
