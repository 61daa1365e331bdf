# For scripts that consist of steps: `step NAME` says what begins, and notes how long what was before it took; `steps_table` says
# where the time went. A script that is run by another one adds to that one's table.
if [ -z "${HYPERNETES_STEPS:-}" ]; then
    steps_owner=1
    HYPERNETES_STEPS=$(mktemp)
    HYPERNETES_TEST_TIMES=$(mktemp)
    export HYPERNETES_STEPS HYPERNETES_TEST_TIMES
fi
step_name='' step_began=$SECONDS

step_ends() {
    [ -z "$step_name" ] || printf '%6d s  %s\n' $((SECONDS - step_began)) "$step_name" >>"$HYPERNETES_STEPS"
    step_name=''
}

step() {
    step_ends
    step_name=$* step_began=$SECONDS
    printf '\n[%s] %s\n' "$(date +%H:%M:%S)" "$*"
}

steps_table() {
    step_ends
    [ -n "${steps_owner:-}" ] || return 0
    printf '\nwhere the time went:\n'
    cat "$HYPERNETES_STEPS"
    printf '\nthe twenty slowest tests, of %d that took %d s together:\n' \
        "$(wc -l <"$HYPERNETES_TEST_TIMES")" "$(awk '{ sum += $1 } END { print int(sum) }' "$HYPERNETES_TEST_TIMES")"
    sort -rn "$HYPERNETES_TEST_TIMES" | awk 'NR <= 20 { printf "%8.1f s  %s %s\n", $1, $2, $3 }'
    rm -f "$HYPERNETES_STEPS" "$HYPERNETES_TEST_TIMES"
}
