#!/bin/sh
# Fills a raw disk image with a Debian system, for `doppel image debian`, which carries this script
# and sets: WORK (a folder that it removes), RAW, SIZE (bytes), KERNEL, INITRD, SUITE, MIRROR (may be
# empty), NAME (of the host), PACKAGES (separated by commas, may be empty), SSH_KEY (a file, may be
# empty). Needs root, debootstrap and mkfs.ext4. What goes wrong is one line on standard error.
set -u
root=$WORK/root
log=$WORK/log

say() { printf 'doppel: %s\n' "$*" >&2; }
# Shows why the last command failed: its own last error, or its last line.
give_up() {
    reason=$(grep -aE '^(E|W):|[Ee]rror' "$log" | tail -n 1)
    printf '%s: %s\n' "$1" "${reason:-$(tail -n 1 "$log")}" >"$WORK/reason"
    exit 1
}

# What a person expects of a Debian that starts by itself: init, network, a way in.
base=systemd,systemd-sysv,udev,dbus,kmod,procps,iproute2,iputils-ping,netbase,openssh-server,less,nano
base=$base,ca-certificates,systemd-resolved,libpam-systemd,initramfs-tools,linux-image-cloud-amd64

say "fetching Debian $SUITE; this takes some minutes"
# shellcheck disable=SC2086
debootstrap --variant=minbase --include="$base${PACKAGES:+,$PACKAGES}" "$SUITE" "$root" $MIRROR \
    >"$log" 2>&1 </dev/null || give_up "debootstrap failed"

say "configuring it"
{
    set -e
    echo "$NAME" >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n' "$NAME" >"$root/etc/hosts"
    echo 'LABEL=doppel-root / ext4 rw,discard,errors=remount-ro 0 1' >"$root/etc/fstab"
    printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    systemctl --root="$root" enable systemd-networkd.service systemd-resolved.service ssh.service
    # Without a password at the console; by key alone through the network, as sshd has it.
    sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
    if [ -n "$SSH_KEY" ]; then
        mkdir -p -m 700 "$root/root/.ssh"
        cat "$SSH_KEY" >"$root/root/.ssh/authorized_keys"
        chmod 600 "$root/root/.ssh/authorized_keys"
    fi
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/debootstrap
    : >"$root/etc/machine-id"  # made at its first start
    cp "$root"/boot/vmlinuz-* "$KERNEL"
    cp "$root"/boot/initrd.img-* "$INITRD"
} >>"$log" 2>&1 || give_up "Cannot configure the system"

say "writing the disk"
truncate -s "$SIZE" "$RAW" 2>>"$log" || give_up "Cannot make a disk of that size"
mkfs.ext4 -q -F -L doppel-root -d "$root" "$RAW" >>"$log" 2>&1 </dev/null ||
    give_up "Cannot make the file system (is --size large enough?)"
