#!/bin/sh
# fetch_package.sh PACKAGE DESTINATION.deb: downloads one Debian package without
# installing it. With "linux" for PACKAGE: the kernel that linux-image-cloud-amd64
# depends on at present. Needs no root once there are package lists.
set -u
package=$1
destination=$2
here=$(dirname "$0")
. "$here/../scripts/retry.sh"

work=$(mktemp -d "$(dirname "$destination")/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log

resolve() {
    [ "$package" = linux ] || { echo "$package"; return; }
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1
}

update() {
    if [ "$(id -u)" = 0 ]; then
        apt-get -qq update
    elif command -v sudo >/dev/null; then
        sudo apt-get -qq update
    fi
}

# The lists may be absent, or name a version that the mirror no longer has: on failure
# refresh them and try again.
attempt() {
    name=$(resolve)
    if [ -n "$name" ] &&
        (cd "$work" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$name"); then
        return 0
    fi
    update
    return 1
}

echo "Fetching the Debian package of $package"
if ! retry 3 attempt >"$log" 2>&1 </dev/null; then
    reason=$(grep -E '^(E|Err|W):' "$log" | tail -n 1)
    echo "Cannot fetch the Debian package of $package: ${reason:-no such package in apt's lists}." \
        "Check the network and run it again." >&2
    exit 3
fi
mv "$work"/*.deb "$destination"
