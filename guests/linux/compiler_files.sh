#!/bin/sh
# Names the files of this machine's C compiler, make and headers, one a line: what a guest needs to
# build C programs with the very same programs.
set -eu
version=$(gcc -dumpversion | cut -d. -f1)
{
    for package in gcc "gcc-$version" cpp "cpp-$version" "libgcc-$version-dev" binutils \
        binutils-x86-64-linux-gnu libc6-dev linux-libc-dev make; do
        dpkg-query -L "$package"
    done
    # What the linker's scripts name.
    dpkg-query -L libc6 | grep -E '/lib(c|m|mvec)\.so\.[0-9]+$'
} | sort -u |
    grep -vE '^/usr/share/|/lto|san(_preinit)?\.|/(gold|dwp|gprofng)|-(gold|dwp)$|/lib(c|m-.*|mvec)\.a$' |
    while IFS= read -r name; do
        if [ -L "$name" ] || [ -f "$name" ]; then echo "$name"; fi
    done
