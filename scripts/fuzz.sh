#!/bin/bash
# fuzz.sh FOLDER SECONDS: builds the fuzz targets with clang and sanitizers, and runs each
# for that long, one on each processor. A crash leaves
# its input in FOLDER/findings/.
set -u
folder=$1
seconds=$2
root=$(cd "$(dirname "$0")/.." && pwd)

CC=clang CXX=clang++ "$root/scripts/build.sh" "$folder" all -DDOPPEL_FUZZ=ON \
    -DDOPPEL_TESTS=OFF -DDOPPEL_SANITIZE=address,undefined,fuzzer-no-link || exit 1

mapfile -t targets < <(find "$folder" -type f -executable -name 'fuzz_*' | sort)
if [ ${#targets[@]} -eq 0 ]; then
    echo "fuzz.sh: no fuzz targets in $folder" >&2
    exit 1
fi

run_one() {
    local target=$1 name findings
    name=$(basename "$target")
    findings=$folder/findings/$name
    mkdir -p "$findings/corpus"
    if "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3000 -print_final_stats=1 \
        -artifact_prefix="$findings/" "$findings/corpus" >"$findings/log" 2>&1; then
        printf '%-32s passed, %s executions\n' "$name" \
            "$(sed -n 's/^stat::number_of_executed_units: *//p' "$findings/log")"
    else
        printf '%-32s FAILED\n' "$name"
        tail -n 40 "$findings/log"
        return 1
    fi
}
export -f run_one
export folder seconds
printf '%s\0' "${targets[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'run_one "$0" || exit 1'
status=$?
[ "$status" -eq 0 ] || { echo "make fuzz: FAILED"; exit 1; }
echo "make fuzz: ${#targets[@]} targets passed"
