#!/bin/sh
# build.sh FOLDER TARGET [CMAKE OPTION...]: configures when needed, builds the target.
set -eu
folder=$1
target=$2
shift 2
source_folder=$(cd "$(dirname "$0")/.." && pwd)

# A build folder that was copied or moved along with its sources cannot be used.
cache=$folder/CMakeCache.txt
if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$source_folder" "$cache"; then
    rm -rf "$cache" "$folder/CMakeFiles"
fi

# Without the test packages the tests cannot be configured; once they were, they stay on,
# so that building the binary alone in between does not throw them away.
if [ ! -f "$cache" ]; then
    set -- -DDOPPEL_TESTS=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo "$@"
fi
if [ ! -f "$folder/build.ninja" ] || [ $# -gt 0 ]; then
    mkdir -p "$folder"
    if ! cmake -G Ninja -S "$source_folder" -B "$folder" "$@" >"$folder/configure.log" 2>&1; then
        cat "$folder/configure.log" >&2
        exit 1
    fi
fi

# Ninja rewrites one line on a terminal; elsewhere a line for every file would drown the
# guest's output.
quiet=--quiet
if [ -t 1 ]; then quiet=; else echo "Building $target in $folder"; fi
# shellcheck disable=SC2086
ninja -C "$folder" $quiet "$target"
