"""What the ``debian`` recipe is made of, as data: architectures, variants, and the programs that a build runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_pidoc.images.debian import second_stage

__all__ = [
    "ARCHITECTURES",
    "BUILDER",
    "BUILDER_ARCHITECTURE",
    "MODULES_WITHOUT",
    "TOOLS",
    "VARIANTS",
    "VIRT",
    "Architecture",
    "Variant",
]

#: Programs that a build runs, and the Debian packages that have them.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
}


@dataclass(frozen=True)
class Architecture:
    """What differs between Debian's architectures.

    Attributes
    ----------
    kernel
        The metapackage that depends on the current kernel.
    initrds
        The initrds by role (see ``Machine.initrd``): what each loads, beside what these modules need.
    """

    kernel: str
    initrds: Mapping[str, tuple[str, ...]]


_ROOT = ("crc32c_generic", "ext4")  # without the former, ext4 says "Cannot load crc32c driver"
VIRT = ("virtio_pci", "virtio_blk", "virtio_net", *_ROOT)
#: The boards' SD card and USB, and the network card on USB, which may be plugged in later; see
#: ``guest/tuned/root/etc/modprobe.d/pidoc.conf``. The board's watchdog is what restarts it; see ``WATCHDOG`` in
#: `pytest_pidoc.qemu.command` for why the kernel's own comes before.
BOARD = ("bcm2835", "sdhci-iproc", "mmc_block", *_ROOT, "phy-generic", "dwc2", "cdc_subset", "softdog", "bcm2835_wdt")

ARCHITECTURES = {
    "arm64": Architecture(kernel="linux-image-arm64", initrds={"initrd": VIRT, "initrd/board": BOARD}),
    # Without LPAE, the kernel guards user memory with domains (CPU_SW_DOMAIN_PAN), and with each change of them, twice
    # in a system call, QEMU flushes its TLB: processes start in half the time with it.
    "armhf": Architecture(kernel="linux-image-armmp-lpae", initrds={"initrd": VIRT, "initrd/board": BOARD}),
    "armel": Architecture(kernel="linux-image-rpi", initrds={"initrd/board": BOARD}),  # ARMv6: the boards alone
}

#: What finishes every guest: a 64-bit kernel runs programs of all three architectures, and faster than a 32-bit one.
BUILDER = "pi3-virt"
BUILDER_ARCHITECTURE = "arm64"


@dataclass(frozen=True)
class Variant:
    """A way to furnish the guest: the folder of ``guest/`` with its files and its ``setup`` script.

    Attributes
    ----------
    packages
        What is installed beside the packages marked essential.
    append
        Kernel arguments that belong to it.
    """

    folder: str
    packages: tuple[str, ...]
    append: str = ""


VARIANTS = {
    "": Variant(
        folder="tuned",
        packages=(
            # the system; usr-is-merged stands in for usrmerge, which brings all of perl
            *("apt", "ca-certificates", "dbus", "kmod", "libnss-myhostname"),
            *("netbase", "systemd-sysv", "udev", "usr-is-merged"),
            # its network
            *("curl", "iproute2", "iputils-ping", "openssh-server"),
            # what tests, Ansible and benchmarks need
            *("less", "procps", "python3", "python3-apt", "sudo", "sysbench"),
        ),
        append=f"{second_stage.FAST} quiet systemd.show_status=1 systemd.log_color=0",
    ),
    # Debian as it comes, for comparison: what mmdebstrap's variant minbase has, SSH, and DHCP through ifupdown.
    "plain": Variant(
        folder="plain",
        packages=(
            *("?priority(required)", "apt", "kmod", "openssh-server", "sudo", "systemd-sysv", "udev"),
            "usr-is-merged",
            *("ifupdown", "isc-dhcp-client", "dbus"),
            "python3",  # which gives a node its identity, after the boot
        ),
    ),
}

# Drivers and file systems of hardware that no machine of QEMU has: three quarters of the kernel's modules.
MODULES_WITHOUT = (
    *(f"*/kernel/drivers/{name}" for name in ("gpu", "media", "infiniband", "staging", "iio", "isdn", "ata", "scsi")),
    *(f"*/kernel/drivers/net/{name}" for name in ("ethernet", "wireless", "can", "dsa", "wwan", "ieee802154")),
    *(f"*/kernel/drivers/{name}" for name in ("crypto", "hwmon", "nvme", "target", "firewire", "thunderbolt")),
    *(f"*/kernel/fs/{name}" for name in ("ocfs2", "gfs2", "ceph", "jfs", "reiserfs", "orangefs", "afs", "coda")),
    *("*/kernel/sound", "*/kernel/net/bluetooth", "*/kernel/net/mac80211", "*/kernel/net/wireless"),
)
