"""The small files of Raspberry Pi OS that matter to whoever boots, names and reaches it, for the images of `pi_images`.

Configuration is as pi-gen, raspberrypi-sys-mods, userconf-pi and raspi-config of github.com/RPi-Distro leave it in the
images of 2019 (Buster, and Bullseye but for the user) and since 2022 (Bookworm, Trixie). Programs are in the role of
theirs: they find the same files in the same place, and do the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pidoc.images.stock.accounts import DEFAULT

__all__ = ["Style", "cmdline", "config", "contents", "links"]

UNITS = "/etc/systemd/system"
WANTED = f"{UNITS}/multi-user.target.wants"


@dataclass(frozen=True)
class Style:
    """Which images it is like.

    Attributes
    ----------
    user_at_first_boot
        As since April 2022: the user has no password until ``userconf.txt`` gives him one, and ``ssh`` in the boot
        partition enables SSH. Before: pi and raspberry.
    user
        The only user, who is pi-gen's ``FIRST_USER_NAME``.
    password
        His encrypted password, if he has one.
    own_modules
        Whether the kernel in the boot partition has its modules in the root, as a Pi's has. Without them the
        image is one whose kernel the emulated machine cannot use.
    noisy
        What owners of a Pi do to it: sudo asks for a password and lectures, as sudo of Trixie asks, every shell
        complains on stderr about a locale that was not generated, the prompt is coloured, and SSH shows a banner.
    """

    user_at_first_boot: bool
    user: str = "pi"
    password: str = DEFAULT.encrypted()
    own_modules: bool = True
    noisy: bool = False

    @property
    def boot(self) -> str:
        """Where the boot partition is mounted."""
        return "/boot/firmware" if self.user_at_first_boot else "/boot"


def config(style: Style) -> str:
    """Return ``config.txt``."""
    if not style.user_at_first_boot:
        return (
            "# For more options and information see\n#hdmi_safe=1\ndtparam=audio=on\n[pi4]\n[all]\nauto_initramfs=1\n"
        )
    return (
        "# For more options and information see\ndtparam=audio=on\ncamera_auto_detect=1\ndisplay_auto_detect=1\n"
        "auto_initramfs=1\ndtoverlay=vc4-kms-v3d\nmax_framebuffers=2\ndisable_fw_kms_setup=1\narm_64bit=1\n"
        "disable_overscan=1\narm_boost=1\n\n[cm4]\notg_mode=1\n\n[cm5]\ndtoverlay=dwc2,dr_mode=host\n\n[all]\n"
    )


def cmdline(style: Style, disk_id: str) -> str:
    """Return ``cmdline.txt``: the console of the firmware's choice, and what grows the disk and starts it again."""
    scheduler, init = (
        ("", "/usr/lib/raspberrypi-sys-mods/firstboot")
        if style.user_at_first_boot
        else ("elevator=deadline ", "/usr/lib/raspi-config/init_resize.sh")
    )
    return (
        f"console=serial0,115200 console=tty1 root=PARTUUID={disk_id}-02 rootfstype=ext4 {scheduler}fsck.repair=yes "
        f"rootwait quiet init={init}\n"
    )


def contents(style: Style, disk_id: str) -> dict[str, tuple[str, int]]:
    """Return the texts and the modes of the root's files by their paths."""
    files = {
        "/etc/hostname": ("raspberrypi\n", 0o644),
        "/etc/hosts": (
            "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\nff02::1\t\tip6-allnodes\n"
            "ff02::2\t\tip6-allrouters\n\n127.0.1.1\t\traspberrypi\n",
            0o644,
        ),
        "/etc/nsswitch.conf": (
            "passwd:         files\ngroup:          files\nshadow:         files\ngshadow:        files\n\n"
            "hosts:          files mdns4_minimal [NOTFOUND=return] dns\nnetworks:       files\n\n"
            "protocols:      db files\nservices:       db files\nethers:         db files\nrpc:            db files\n\n"
            "netgroup:       nis\n",
            0o644,
        ),
        "/etc/fstab": (
            f"proc            /proc           proc    defaults          0       0\n"
            f"PARTUUID={disk_id}-01  {style.boot}  vfat    defaults          0       2\n"
            f"PARTUUID={disk_id}-02  /               ext4    defaults,noatime  0       1\n",
            0o644,
        ),
        "/etc/machine-id": ("", 0o444),
        "/etc/default/locale": ("LANG=en_GB.UTF-8\n", 0o644),
        "/etc/locale.gen": ("en_GB.UTF-8 UTF-8\n", 0o644),
        "/etc/sysctl.d/98-rpi.conf": (
            "kernel.printk = 3 4 1 3\nvm.min_free_kbytes = 16384\nnet.ipv4.ping_group_range = 0 2147483647\n",
            0o644,
        ),
        "/etc/dhcpcd.conf": (
            "hostname\nclientid\npersistent\noption rapid_commit\noption ntp_servers\nrequire dhcp_server_identifier\n"
            "slaac private\n",
            0o644,
        ),
        "/etc/systemd/network/eth0.network": ("[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n", 0o644),  # for dhcpcd
        "/etc/profile.d/wifi-check.sh": (
            'printf "\\nWi-Fi is blocked. Set the country with raspi-config.\\n\\n"\n',
            0o644,
        ),
        "/usr/sbin/dphys-swapfile": (
            "#!/bin/sh -e\nif [ ! -e /var/swap ]; then fallocate -l 100M /var/swap; chmod 600 /var/swap; "
            "mkswap /var/swap; fi\nswapon /var/swap\n",
            0o755,
        ),
        "/lib/systemd/system/dphys-swapfile.service": _unit(
            "Swap", "/usr/sbin/dphys-swapfile", "ConditionPathExists=/proc/swaps\n", "RemainAfterExit=yes"
        ),
    }
    files |= _of_2022() if style.user_at_first_boot else _of_2019()
    return files | (_noise(style) if style.noisy else _sudoers(style))


def links(style: Style) -> dict[str, str]:
    """Return the targets of the root's links by their paths: services that start, and cards that keep their names."""
    services = ["systemd-networkd", "dphys-swapfile"]
    if style.user_at_first_boot:
        services += ["userconfig", "sshswitch", "regenerate_ssh_host_keys"]
    return {"/etc/systemd/network/99-default.link": "/dev/null"} | {
        f"{WANTED}/{name}.service": f"/lib/systemd/system/{name}.service" for name in services
    }


def _sudoers(style: Style) -> dict[str, tuple[str, int]]:
    return {
        "/etc/sudoers.d/010_pi-nopasswd": (f"{style.user} ALL=(ALL) NOPASSWD: ALL\n", 0o440),
        "/etc/sudoers.d/010_global-tty": ("Defaults timestamp_type=global\n", 0o440),
    }


def _noise(style: Style) -> dict[str, tuple[str, int]]:
    return {
        "/etc/sudoers.d/010_global-tty": ("Defaults timestamp_type=global, lecture=always\n", 0o440),
        "/etc/default/locale": ("LANG=en_GB.UTF-8\nLANGUAGE=en_GB.UTF-8\nLC_ALL=en_GB.UTF-8\n", 0o644),
        "/etc/motd": ("#" * 60 + "\n# Authorised users only #\n" + "#" * 60 + "\n", 0o644),
        "/etc/ssh/sshd_config.d/banner.conf": ("Banner /etc/issue.net\n", 0o644),
        "/etc/profile.d/disk.sh": ("df -h / | tail -1\necho 'disk.sh: no such sensor: $HOME #' >&2\n", 0o644),
        f"/home/{style.user}/.bashrc": (
            "echo '.bashrc: line 1: setterm: command not found' >&2\n"
            'case $- in *i*) ;; *) return ;; esac\necho "Welcome to $(hostname)"\n'
            r"PS1='\[\033[01;32m\]\u@\h\[\033[00m\]:\[\033[01;34m\]\w \$\[\033[00m\] '"
            "\n",
            0o644,
        ),
    }


def _of_2019() -> dict[str, tuple[str, int]]:
    return {
        "/etc/profile.d/sshpwd.sh": (
            'printf "\\nSSH is on, and pi has still its first password.\\nThis is a risk: type passwd.\\n\\n"\n',
            0o644,
        ),
        "/etc/rc.local": (
            '#!/bin/sh\naddress=$(hostname -I)\n[ -z "$address" ] || echo "My IP address is $address"\nexit 0\n',
            0o755,
        ),
        f"{UNITS}/rc-local.service.d/ttyoutput.conf": ("[Service]\nStandardOutput=tty\n", 0o644),
    }


def _unit(what: str, program: str, more: str = "", section: str = "") -> tuple[str, int]:
    text = f"[Unit]\nDescription={what}\n{more}\n[Service]\nType=oneshot\nExecStart={program}\n{section}"
    return text + "\n[Install]\nWantedBy=multi-user.target\n", 0o644


def _of_2022() -> dict[str, tuple[str, int]]:
    return {
        "/etc/systemd/journald.conf": ("[Journal]\nStorage=volatile\n", 0o644),
        "/etc/ssh/sshd_config.d/rename_user.conf": ("Banner /usr/share/userconf-pi/sshd_banner\n", 0o644),
        "/usr/share/userconf-pi/sshd_banner": ("SSH may not work until there is a user.\n", 0o644),
        "/usr/lib/userconf-pi/userconf": (
            '#!/bin/sh -e\nold=$(getent passwd 1000 | cut -d: -f1)\nif [ "$old" != "$1" ]; then\n'
            '    usermod --login "$1" "$old"\n    usermod --move-home --home "/home/$1" "$1"\n'
            '    groupmod --new-name "$1" "$old"\n    sed -i "s/^$old /$1 /" /etc/sudoers.d/010_pi-nopasswd\nfi\n'
            'echo "$1:$2" | chpasswd --encrypted\nrm -f /etc/ssh/sshd_config.d/rename_user.conf\n'
            "systemctl -q disable userconfig\n",
            0o755,
        ),
        "/usr/lib/userconf-pi/userconf-service": (
            "#!/bin/sh -e\nsleep 3 # a Pi is not fast either, and the console asks for a login already\n"
            "line=$(head -n 1 /boot/firmware/userconf.txt)\n"
            '/usr/lib/userconf-pi/userconf "${line%%:*}" "${line#*:}"\nrm /boot/firmware/userconf.txt\n',
            0o755,
        ),
        "/usr/lib/raspberrypi-sys-mods/sshswitch": (
            "#!/bin/sh -e\n[ -e /boot/firmware/ssh ] || exit 0\nrm /boot/firmware/ssh\n"
            "systemctl enable --now --no-block ssh\n",
            0o755,
        ),
        "/usr/lib/raspberrypi-sys-mods/regenerate_ssh_host_keys": (
            "#!/bin/sh -e\nrm -f /etc/ssh/ssh_host_*_key*\nssh-keygen -A > /dev/null\n"
            "systemctl -q disable regenerate_ssh_host_keys\n",
            0o755,
        ),
        "/lib/systemd/system/userconfig.service": _unit(
            "User configuration dialog",
            "/usr/lib/userconf-pi/userconf-service",
            "After=systemd-user-sessions.service\nBefore=lightdm.service\n",
            "StandardInput=tty\nRestart=on-failure\nTTYPath=/dev/tty8\nTTYReset=yes\nTTYVHangup=yes\n"
            "TTYVTDisallocate=yes\n",
        ),
        "/lib/systemd/system/sshswitch.service": _unit(
            "Turn on SSH if /boot/ssh or /boot/firmware/ssh is present",
            "/usr/lib/raspberrypi-sys-mods/sshswitch",
            "After=regenerate_ssh_host_keys.service boot-firmware.mount\n",
        ),
        "/lib/systemd/system/regenerate_ssh_host_keys.service": _unit(
            "Regenerate SSH host keys",
            "/usr/lib/raspberrypi-sys-mods/regenerate_ssh_host_keys",
            "Before=ssh.service\nConditionFileIsExecutable=/usr/bin/ssh-keygen\n",
        ),
    }
