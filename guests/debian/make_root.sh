#!/bin/sh
# make_root.sh ARCHIVE ROOT INITRAMFS PROGRAM_SOURCE...: unpacks the Debian system of
# bootstrap.sh into the folder ROOT, puts our init and the self-test into it, and packs it as an
# initramfs. Needs root, or sudo.
set -eu
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "Unpacking a Debian system needs root or sudo." >&2; exit 3; }
    exec sudo "$0" "$@"
fi
here=$(dirname "$0")
archive=$1
root=$2
initramfs=$3
shift 3

rm -rf "$root"
mkdir -p "$root"
zstd -qdc "$archive" | tar -x --numeric-owner -C "$root"
cp -r "$here/selftest/." "$root/selftest/"
cp "$@" "$root/selftest/lib/"
install -m 755 "$here/init" "$root/init"
find "$root/selftest" "$root/init" -exec touch -d @1700000000 {} +
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc | zstd -q -T0 -10) >"$initramfs.new"
mv "$initramfs.new" "$initramfs"
