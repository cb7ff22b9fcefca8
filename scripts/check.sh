#!/bin/sh
# check.sh BUILD SANITIZED: every quick test, the sanitized unit and conformance tests, the
# source rules; goes through all of them before it fails, and ends with a summary.
set -u
build=$1
sanitized=$2
jobs=$(nproc)
failed=

part() {
    name=$1
    shift
    echo "== $name"
    "$@" || failed="$failed '$name'"
}

part "source rules" scripts/check_sources.sh "$build"
part "tests" ctest --test-dir "$build" --output-on-failure -j "$jobs" -LE slow
# Guests on the sanitized build would take minutes and show nothing that these do not, but for the
# one that drives devices at random (guest_fuzz).
ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    part "tests with sanitizers" ctest --test-dir "$sanitized" --output-on-failure -j "$jobs" \
    -LE 'slow|e2e'

if [ -n "$failed" ]; then
    echo "make check: FAILED:$failed"
    exit 1
fi
echo "make check: all passed"
