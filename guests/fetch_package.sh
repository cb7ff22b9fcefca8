#!/bin/sh
# fetch_package.sh PACKAGE DESTINATION.deb: downloads one Debian package without
# installing it. With "linux" for PACKAGE: the kernel that linux-image-cloud-amd64
# depends on at present; with linux-686 and linux-686-pae: that of linux-image-686 and so on. Those
# and packages whose names end in -i386 are of that architecture, with package lists of their own,
# beside the destination. Needs no root once there are package lists.
set -u
package=$1
destination=$2
here=$(dirname "$0")
. "$here/../scripts/retry.sh"

work=$(mktemp -d "$(dirname "$destination")/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log

lists=
case $package in
linux-686* | *-i386)
    lists=$(dirname "$destination")/apt-i386
    mkdir -p "$lists/partial"
    lists=$(cd "$lists" && pwd)
    ;;
esac

# apt-get or apt-cache, for the package's architecture.
apt() {
    tool=$1
    shift
    if [ -z "$lists" ]; then
        "apt-$tool" "$@"
    else
        "apt-$tool" -o APT::Architecture=i386 -o APT::Architectures=i386 \
            -o Dir::State::lists="$lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
    fi
}

resolve() {
    case $package in
    linux) of=linux-image-cloud-amd64 ;;
    linux-*) of=linux-image-${package#linux-} ;;
    *) echo "${package%-i386}"; return ;;
    esac
    apt cache depends "$of" 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

update() {
    if [ -n "$lists" ]; then
        apt get -qq update
    elif [ "$(id -u)" = 0 ]; then
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
        (cd "$work" && apt get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$name"); then
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
