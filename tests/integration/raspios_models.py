"""The stand-ins for Raspberry Pi OS on every model, which take minutes each: CI has no time for that.

pytest collects this file only by its name: ``python -m pytest tests/integration/raspios_models.py -k pi4-new``. At the
end it prints a row for each start. The images that it builds stay in the cache, until ``pidoc prune`` removes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pi_files import Style
from pi_images import BOOTED, make
from support import require_machine

from pytest_pidoc import Settings
from pytest_pidoc.cluster import Cluster
from pytest_pidoc.images.stock.accounts import Account
from pytest_pidoc.lifecycle.provision import build_image
from pytest_pidoc.machines import MODELS
from pytest_pidoc.node import Node
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.values.text import table

pytestmark = pytest.mark.qemu

#: The image of 2022 as it is published, and one of 2019 whose owner has changed what can be changed.
OWNERS = Account("ada", "it's lovelace")
STYLES = {
    "new": Style(user_at_first_boot=True),
    "old": Style(user_at_first_boot=False, user=OWNERS.name, password=OWNERS.encrypted(), noisy=True),
}
ASKED = {"new": {}, "old": {"image_user": OWNERS.name, "image_password": OWNERS.password}}

#: The models whose Debian is what the images are made of.
DONORS = {"arm64": "pi3-virt", "armhf": "pi2-virt", "armel": "pi1"}
STARTED = [*((model, "new") for model in MODELS), *((model, "old") for model in DONORS.values())]
HEAD = ("model", "image", "build s", "cold s", "first warm s", "warm s", "reboot s")

Disk = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def disk(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Return what makes the image of an architecture and a style, once."""
    made: dict[tuple[str, str], Path] = {}

    def disk(architecture: str, style: str) -> Path:
        if (architecture, style) not in made:
            donor = build_image(settings.spec({"model": DONORS[architecture]}), settings, Progress())
            folder = tmp_path_factory.mktemp(f"{style}-{architecture}") / "made"
            made[architecture, style] = make(donor, folder, STYLES[style])
        return made[architecture, style]

    return disk


@pytest.fixture(scope="module")
def rows(pytestconfig: pytest.Config) -> Iterator[list[tuple[object, ...]]]:
    """Give a list of rows that are printed after the last test."""
    rows: list[tuple[object, ...]] = []
    yield rows
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    reporter.ensure_newline()
    reporter.write_line(table(HEAD, rows))


@pytest.mark.parametrize(("model", "style"), STARTED, ids=["-".join(each) for each in STARTED])
def test_model_runs_raspberry_pi_os(
    model: str,
    style: str,
    disk: Disk,
    rows: list[tuple[object, ...]],
    settings: Settings,
    request: pytest.FixtureRequest,
) -> None:
    """It boots the image, two nodes are forked from it and know themselves, and one of them restarts."""
    machine = MODELS[model]
    require_machine(machine)
    parts = request.getfixturevalue("versatile_kernel") if machine.archive else {}
    asked = {"model": model, "image": disk(machine.architecture, style), "engine": "local", **ASKED[style], **parts}

    began = time.monotonic()
    build_image(settings.spec(asked), settings, Progress())
    spent = [time.monotonic() - began]
    with Cluster.up(settings=settings, start="cold", **asked) as (pi,):
        spent.append(pi.timings.ready)
        check(pi, style)

    began = time.monotonic()
    with Cluster.up(settings=settings, nodes=2, **asked) as cluster:
        spent += [time.monotonic() - began, cluster.timings.ready]
        assert [pi.timings.start for pi in cluster] == ["warm", "warm"]
        for pi in cluster:
            check(pi, style)
        for command in ("cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub"):
            first, second = (pi.run(command).stdout for pi in cluster)
            assert first != second
        if machine.lan:
            pi.run("ping -c 1 -W 5 pi-1")
        before = pi.run("cat /proc/sys/kernel/random/boot_id").stdout
        pi.run("echo kept > kept && sync")
        began = time.monotonic()
        pi.reboot()
        spent.append(time.monotonic() - began)
        assert pi.run("cat /proc/sys/kernel/random/boot_id").stdout != before
        assert pi.run("cat kept").stdout == "kept\n"
        check(pi, style)
    rows.append((model, style, *(f"{each:.1f}" for each in spent)))


def check(pi: Node, style: str) -> None:
    """Require that a node is who it is, and as quiet as its image."""
    asked, architecture = STYLES[style], pi.machine.architecture
    names = {"arm64": "aarch64", "armhf": "armv7l", "armel": "armv6l"}
    assert pi.run("uname -m; whoami; hostname").stdout.split() == [names[architecture], asked.user, pi.name]
    assert pi.run("cat /etc/hostname").stdout == f"{pi.name}\n"
    assert pi.run(f"grep -w {pi.name} /etc/hosts").stdout.split()[0] in (pi.lan_address, "127.0.1.1")
    assert "raspberrypi" not in pi.run("cat /etc/hosts").stdout
    became = pi.sudo("id -un")
    assert became.stdout == "root\n"
    assert "sudo:" not in became.stderr
    assert asked.noisy or became.stderr == ""
    assert pi.run("findmnt -no SOURCE /").stdout == f"{pi.machine.root}{'p' * ('mmc' in pi.machine.root)}2\n"
    assert pi.run(f"ls {asked.boot}/{BOOTED[architecture].kernel}").ok
    assert "10.0.2.15/24" in pi.run("ip -4 address show eth0").stdout
    assert pi.run("systemctl is-system-running --wait", warn=True).stdout == "running\n"
    assert pi.run("systemctl --failed --no-legend").stdout == ""
