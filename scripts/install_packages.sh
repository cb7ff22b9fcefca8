#!/bin/sh
# install_packages.sh GROUP...: installs those packages of scripts/packages.txt that are
# missing, and does nothing (no network, no root) when none is. A mirror that fails is
# tried three times; then one line says what is missing.
set -u
list=$(dirname "$0")/packages.txt
retry=$(dirname "$0")/retry.sh

packages_of() {
    sed -n "/^\[$1\]/,/^\[/{/^[a-z]/p}" "$list"
}

missing=
for group in "$@"; do
    found=$(packages_of "$group")
    [ -n "$found" ] || { echo "install_packages.sh: no group [$group] in $list" >&2; exit 2; }
    for package in $found; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
        [ "$state" = installed ] || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    root="env DEBIAN_FRONTEND=noninteractive"
elif command -v sudo >/dev/null; then
    root="sudo env DEBIAN_FRONTEND=noninteractive"
else
    echo "Missing packages:$missing. Install them, or run make as root or with sudo." >&2
    exit 3
fi

echo "Installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Package lists may be absent (a fresh container) or too old to match the mirror, so each
# try refreshes them.
attempt() {
    # shellcheck disable=SC2086
    $root apt-get -qq -o Acquire::Retries=3 update && \
        $root apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 \
            install --no-install-recommends $missing
}
. "$retry"
if ! retry 3 attempt >"$log" 2>&1 </dev/null; then
    reason=$(grep -E '^(E|Err|W):' "$log" | tail -n 1)
    echo "Cannot install$missing: ${reason:-apt-get failed}. Check the network and run it again." >&2
    exit 3
fi
