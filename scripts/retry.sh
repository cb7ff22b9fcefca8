# Sourced. retry N COMMAND...: runs the command until it succeeds, N times at most, with a
# growing pause between tries.
retry() {
    retry_left=$1
    retry_pause=2
    shift
    until "$@"; do
        retry_left=$((retry_left - 1))
        [ "$retry_left" -gt 0 ] || return 1
        sleep "$retry_pause"
        retry_pause=$((retry_pause * 3))
    done
}
