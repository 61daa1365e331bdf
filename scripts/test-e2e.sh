#!/usr/bin/env bash
# Starts a system of its own in a temporary directory, runs the tests in tests/ against it, and stops it. With an argument, only
# those that this filter of nextest's names.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mounts of its own: what is in /run/netns is this system's, whatever else runs on the machine.
if [ -z "${HYPERNETES_TEST_MOUNTS:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "the tests of the whole system need root, for VMs and network namespaces" >&2; exit 1; }
    HYPERNETES_TEST_MOUNTS=own exec unshare --mount "$0" "$@"
fi
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
. scripts/steps.sh
filter=${1:-all()}
# They disturb whoever runs beside them.
alone='binary(survival) | binary(attack)'
root=$(mktemp -d /tmp/hypernetes-test-XXXXXX)
hypernetes=$PWD/target/release/hypernetes
export HYPERNETES_TEST_ROOT=$root HYPERNETES_TEST_BINARY=$hypernetes

finish() {
    local code=$?
    "$hypernetes" down --root "$root" || code=1
    if [ $code = 0 ]; then
        rm -rf "$root"
    else
        for log in "$root"/log/*.log; do
            printf '\n== last lines of %s\n' "$log" >&2
            tail -n 40 "$log" >&2
        done
        # CI keeps no files: the logs above are what there is. On a developer's machine the directory stays.
        [ -n "${CI:-}" ] && rm -rf "$root"
    fi
    steps_table
    exit $code
}
trap finish EXIT

step "a system for the tests of the whole one"
"$hypernetes" up --root "$root" --bind 127.0.0.1:0 --guest .tools/guest --detach
demo/build-image.sh .tools/demo-web.tar
"$hypernetes" image import --root "$root" .tools/demo-web.tar --name demo/web:1
step "tests of the whole system"
scripts/nextest.sh --no-tests warn -E "package(hypernetes-tests) & not ($alone) & ($filter)"
scripts/nextest.sh --no-tests warn -j 1 -E "package(hypernetes-tests) & ($alone) & ($filter)"
step "the end of that system"
"$hypernetes" down --root "$root"
# Nothing may be left. What is being ended has a moment: processes write what they have to say below the directory.
processes() { find /proc/[0-9]*/fd/2 -lname "$root/*" 2>/dev/null | cut -d/ -f3; }
for _ in $(seq 300); do [ -z "$(processes)" ] && break; sleep 0.1; done
left=0
for pid in $(processes); do
    echo "down left a process: $(ps -o pid=,args= -p "$pid")" >&2
    left=1
done
for namespace in $(ip netns list | awk '{ print $1 }'); do
    echo "down left the network namespace $namespace" >&2
    left=1
done
if grep -q " $root/" /proc/self/mountinfo; then
    echo "down left mounts:" >&2
    grep " $root/" /proc/self/mountinfo >&2
    left=1
fi
exit $left
