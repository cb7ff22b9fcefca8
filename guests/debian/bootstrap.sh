#!/bin/sh
# bootstrap.sh OUTPUT: fetches a Debian system, without what no test reads, into a tar archive
# compressed by zstd. Needs root, or sudo.
set -u
output=$1
here=$(dirname "$0")
. "$here/../../scripts/retry.sh"

packages=perl,python3,libpython3.11-testsuite,gcc,libc6-dev,openssl,stress-ng,bzip2,xz-utils
# Packages that are kept, to be installed again in the guest.
kept="hostname tar sed"

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "debootstrap needs root or sudo." >&2; exit 3; }
    exec sudo "$0" "$@"
fi
work=$(mktemp -d "$(dirname "$output")/bootstrap.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

attempt() {
    rm -rf "$root"
    debootstrap --variant=minbase --include="$packages" bookworm "$root" http://deb.debian.org/debian
}
echo "Fetching a Debian system, some hundred megabytes"
if ! retry 3 attempt >"$work/log" 2>&1 </dev/null; then
    reason=$(grep -E '^(E|W):' "$work/log" | tail -n 1)
    echo "Cannot fetch a Debian system: ${reason:-debootstrap failed}. Check the network and" \
        "run it again." >&2
    exit 3
fi

mkdir -p "$root/selftest/packages"
for package in $kept; do
    mv "$root/var/cache/apt/archives/${package}_"*.deb "$root/selftest/packages/"
done
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/dev/* \
    "$root"/debootstrap "$root"/var/cache/ldconfig/aux-cache
rm -rf "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man "$root"/usr/share/info
rm -rf "$root"/usr/lib/gcc/x86_64-linux-gnu/12/lto1 "$root"/usr/bin/*lto-dump*
rm -rf "$root"/usr/lib/python3.11/test/__pycache__
find "$root"/usr/lib \( -name 'lib[atlu]*san.so*' -o -name 'lib[atlu]*san.a' \) -delete
echo doppel >"$root/etc/hostname"
: >"$root/etc/resolv.conf"

tar --numeric-owner -C "$root" -c . | zstd -q -T0 -10 >"$output.new" && mv "$output.new" "$output"
