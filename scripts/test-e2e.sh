#!/usr/bin/env bash
# Starts a system of its own in a temporary directory, runs the tests in tests/ against it, and stops it.
set -euo pipefail
cd "$(dirname "$0")/.."
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
    exit $code
}
trap finish EXIT

# Others on this machine may have networks and VMs, too.
networks() { ip netns list | grep -c '^hn-' || true; }
vms() { pgrep -cx hypernetes-vm || true; }
networks_before=$(networks) vms_before=$(vms)

"$hypernetes" up --root "$root" --bind 127.0.0.1:0 --guest .tools/guest --detach
demo/build-image.sh .tools/demo-web.tar
"$hypernetes" image import --root "$root" .tools/demo-web.tar --name demo/web:1
cargo nextest run --release -p hypernetes-tests -E 'not binary(survival)'
cargo nextest run --release -p hypernetes-tests -j 1 -E 'binary(survival)'
"$hypernetes" down --root "$root"
# Nothing may be left: no VM, no network namespace. What is being ended has a moment.
for _ in $(seq 50); do [ "$(vms)" = "$vms_before" ] && break; sleep 0.1; done
networks_left=$(($(networks) - networks_before)) vms_left=$(($(vms) - vms_before))
if [ "$networks_left" != 0 ] || [ "$vms_left" != 0 ]; then
    echo "down left $networks_left network namespaces and $vms_left VMs" >&2
    exit 1
fi
if grep -q " $root/" /proc/self/mountinfo; then
    echo "down left mounts:" >&2
    grep " $root/" /proc/self/mountinfo >&2
    exit 1
fi
