#!/bin/sh
# check_threads.sh BUILD GUESTS: the tests that a build with ThreadSanitizer has, and guests of
# several processors and many devices on it. The first data race ends the program that has it.
set -u
build=$1
guests=$2
failed=
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1"

# Where the kernel moves mappings further than this ThreadSanitizer's shadow allows for, it would
# not start; a container may forbid this, and then it has to do without.
fixed=
if setarch "$(uname -m)" -R true 2>/dev/null; then fixed="setarch $(uname -m) -R"; fi

part() {
    name=$1
    shift
    echo "== $name"
    # shellcheck disable=SC2086
    $fixed "$@" || failed="$failed '$name'"
}

export DOPPEL="$build/doppel" GUESTS="$guests" ENGINE=interpret PATIENCE=4
part "tests" ctest --test-dir "$build" --output-on-failure -j "$(nproc)" -LE 'slow|e2e|guest_fuzz'
part "guests with several processors" python3 -B tests/e2e/bare_test.py Bare.test_smp \
    Bare.test_order_of_memory_and_code Bare.test_hypercalls
# Once with each machine.
FUZZ_SECONDS=1 FUZZ_STEPS=3000 \
    part "a guest that drives devices at random" python3 -B tests/e2e/guest_fuzz_test.py

if [ -n "$failed" ]; then
    echo "make check-threads: FAILED:$failed"
    exit 1
fi
echo "make check-threads: all passed"
