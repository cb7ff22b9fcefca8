#!/bin/sh
# run_here.sh ROOT [PIECE...]: the Debian guest's self-test on this machine, in namespaces of its
# own and over ROOT, which stays as it is. Needs root, or sudo.
set -eu
if [ "$(id -u)" != 0 ]; then
    exec sudo "$0" "$@"
fi
root=$(cd "$1" && pwd)
shift
# shellcheck disable=SC2016
exec unshare --mount --pid --fork --uts --ipc --net --kill-child sh -eu -c '
    root=$1
    shift
    mount -t tmpfs tmp /mnt
    mkdir /mnt/new /mnt/work /mnt/root
    mount -t overlay -o "lowerdir=$root,upperdir=/mnt/new,workdir=/mnt/work" overlay /mnt/root
    mount -t proc proc /mnt/root/proc
    mount -t sysfs sys /mnt/root/sys
    mount --rbind /dev /mnt/root/dev
    mount -t tmpfs shm /mnt/root/dev/shm
    hostname doppel
    exec chroot /mnt/root env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin /selftest/run "$@"
' sh "$root" "$@"
