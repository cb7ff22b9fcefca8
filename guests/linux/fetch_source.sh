#!/bin/sh
# fetch_source.sh PACKAGE OUTPUT: the archive that a Debian source package was made from, from the
# mirrors that this machine has its packages from, whether or not it asks them for sources.
set -eu
package=$1
output=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/parts" "$work/source"
: >"$work/list"
[ ! -e /etc/apt/sources.list ] || sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$work/list"
for file in /etc/apt/sources.list.d/debian*.sources; do
    [ ! -e "$file" ] || sed 's/^Types: .*/Types: deb-src/' "$file" >"$work/parts/${file##*/}"
done
get() {
    apt-get -qq -o Acquire::Retries=3 -o Dir::Etc::SourceList="$work/list" \
        -o Dir::Etc::SourceParts="$work/parts" -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "$@"
}
fetch() {
    get update && (cd "$work/source" && get source --download-only "$package")
}
. "$(dirname "$0")/../../scripts/retry.sh"
if ! retry 3 fetch >"$work/log" 2>&1; then
    tail -n 3 "$work/log" >&2
    echo "Cannot fetch the sources of $package. Check the network and run it again." >&2
    exit 3
fi
set -- "$work"/source/*.orig.tar.*
mv "$1" "$output"
