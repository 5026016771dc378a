# Runs on the building host as mmdebstrap's extract hook; $1 is the new root, which is still empty.
# It runs in mmdebstrap's user namespace, so the owners are right even if an ordinary user builds.
# Nothing of the guest's architecture is executed: packages are unpacked here and configured in the second stage.
# Environment: PIDOC_ARCHITECTURE, PIDOC_PACKAGES, PIDOC_KERNEL and PIDOC_BUILDER_KERNEL (Debian metapackages: of the
# guest, and of the machine that runs the second stage), PIDOC_MODULES_WITHOUT (tar patterns), PIDOC_DISK_SIZE (bytes).
# Result: /pidoc.tar in the root, with the disk, the packages that are unpacked but not installed, and all checksums.
set -eu
root=$1
here=$root/var/lib/pidoc/build
out=$root.pidoc
trap 'rm -rf "$out"' EXIT
mkdir -p "$out" "$here/preinst" "$root/var/cache/apt/archives/partial" "$root/var/log"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

# The kernels' packages are not installed: their postinst would spend minutes on an initramfs that nobody boots.
cd "$out"
current() { # the package of the current kernel, which a metapackage depends on
    apt-cache depends "$1" | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n 1
}
kernel=$(current "$PIDOC_KERNEL")
apt-get --quiet download "$kernel" "$(current "$PIDOC_BUILDER_KERNEL")" busybox-static
sha256sum -- *.deb > packages.sha256
cd "$root/var/cache/apt/archives"
# shellcheck disable=SC2086
apt-get --quiet --yes --download-only install "?essential?architecture($PIDOC_ARCHITECTURE)" $PIDOC_PACKAGES
sha256sum -- *.deb >> "$out/packages.sha256"

# A preinst script is a program of the guest: take it out, the second stage runs it.
member() { # one member of an ar archive: its name, its file
    size=$(stat --format %s "$2")
    printf '%-16s%-12d%-6d%-6d%-8s%-10d`\n' "$1" 0 0 0 100644 "$size"
    cat "$2"
    [ $((size % 2)) -eq 0 ] || echo
}
echo 2.0 > "$out/version"
for package in *.deb; do
    dpkg-deb --ctrl-tarfile "$package" > "$out/control.tar"
    if tar --extract --file "$out/control.tar" --to-stdout ./preinst > "$out/preinst" 2> /dev/null; then
        install -m 755 "$out/preinst" "$here/preinst/${package%%_*}"
        tar --delete --file "$out/control.tar" ./preinst
        dpkg-deb --fsys-tarfile "$package" > "$out/data.tar"
        {
            echo '!<arch>'
            member debian-binary "$out/version"
            member control.tar "$out/control.tar"
            member data.tar "$out/data.tar"
        } > "$package"
    fi
done
rm -f "$out/version" "$out/control.tar" "$out/preinst" "$out/data.tar"

options="--root=$root --log=$root/var/log/dpkg.log --force-depends --force-unsafe-io --no-triggers"
if [ -e "$here/left-out" ]; then
    options="$options $(sed -n 's/^path-/--path-/p' "$here/left-out" | tr '\n' ' ')"
fi
set -f
# shellcheck disable=SC2086
dpkg $options --unpack --recursive .
set +f
rm -rf ./*.deb "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin

excludes=
for pattern in $PIDOC_MODULES_WITHOUT; do
    excludes="$excludes --exclude=$pattern"
done
cd "$out"
# shellcheck disable=SC2086
dpkg-deb --fsys-tarfile "$kernel"_*.deb | tar --extract --directory "$root" --keep-directory-symlink \
    --wildcards $excludes ./lib/modules

truncate --size "$PIDOC_DISK_SIZE" disk.raw
# Without lazy_*_init no kernel thread of a freshly booted node goes on initialising the file system.
# Without checksums: an SD card is written in sectors of 512 bytes, and after a power cut in the middle of a commit block
# Linux 6.1 refuses a journal that has them.
mke2fs -q -t ext4 -L pidoc -m 1 -O ^metadata_csum,^metadata_csum_seed -E lazy_itable_init=0,lazy_journal_init=0 \
    -d "$root" disk.raw
qemu-img convert -O qcow2 disk.raw disk.qcow2
rm disk.raw
tar --create --file "$root/pidoc.tar" -- *
