#!/bin/sh
# load SECONDS: mixed work, over and over, for so long. Each round does the same pieces at the
# same time and prints a line "load: NAME RESULT" for each; the results never change, not from
# round to round nor from machine to machine. The first line that is not what it was shows
# where a machine went wrong.
#
# What it needs lies beside it (suite) or is busybox; BUSYBOX says where that is.
here=$(dirname "$0")
: "${BUSYBOX:=/bin/busybox}"
busybox() { "$BUSYBOX" "$@"; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
end=$(($(date +%s) + ${1:-60}))

# The suite's system part, without the times, which do change.
system_calls() {
    "$here/suite" --only system --budget 0.05 | busybox awk '/ns\/op/ {print $1, $4} / wrong /'
}
# Pipes, many short processes, and text.
pipes() {
    busybox seq 1 2000 | busybox sed 's/7/seven/g' | busybox sort -r | busybox tail -n 500
}
# Forks without exec, shell arithmetic, substitutions.
forks() {
    sum=0
    for i in $(busybox seq 1 60); do
        part=$(echo $((i * i)))
        sum=$((sum + part))
    done
    echo $sum
}
# A file through a compressor and back.
files() {
    busybox dd if="$BUSYBOX" of="$work/a" bs=4k count=64 2>/dev/null
    busybox gzip -c "$work/a" >"$work/a.gz"
    busybox gunzip -c "$work/a.gz" | busybox cmp - "$work/a" && busybox wc -c <"$work/a.gz"
    busybox md5sum <"$work/a"
    busybox rm "$work/a" "$work/a.gz"
}
# Floating point in a program that was not made for tests.
floats() {
    busybox awk 'BEGIN {for (i = 1; i < 3000; ++i) s += sin(i) * sqrt(i) / log(i + 1); print s}'
}
# Processes that start, stop and end by signals.
signals() {
    for signal in TERM KILL HUP; do
        "$BUSYBOX" sleep 100 &
        kill -STOP $! && kill -CONT $! && kill -$signal $!
        wait $! 2>/dev/null
        echo $?
    done
}

round=0
while [ "$(date +%s)" -lt "$end" ]; do
    # All at once: what runs together disturbs each other.
    for piece in system_calls pipes forks files floats signals; do
        $piece >"$work/$piece" 2>&1 &
    done
    wait
    for piece in system_calls pipes forks files floats signals; do
        echo "load: $piece $(busybox md5sum <"$work/$piece" | busybox cut -c 1-32)"
    done
    round=$((round + 1))
    echo "load: round $round"
done
echo "load: end"
