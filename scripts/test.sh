#!/usr/bin/env bash
# make test: lints, then every test, VMs and stock clients included.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh
began=$SECONDS
kernel='' kernel_log=$(mktemp)

finish() {
    [ -z "$kernel" ] || kill -- "-$kernel" 2>/dev/null || true
    rm -f "$kernel_log"
    steps_table
}
trap finish EXIT

# In what lints, the build and the first tests leave of the processors. A job of its own, to be ended with all its children.
set -m
nice -n 10 scripts/guest-kernel.sh --build .tools/guest >"$kernel_log" 2>&1 &
kernel=$!
set +m
step "lints"
make --no-print-directory lint
step "build, tests included"
scripts/build.sh --tests
# Of these crates' tests those in tests/ boot VMs, and those in modules that say so.
with_vms='(package(hypernetes-hypervisor) | package(hypernetes-hyperd) | package(hypernetes-hyperctl)) & (kind(test) | test(/tests_with_vms::/))'
step "tests of each crate that need no kernel for guests"
# One that boots a VM all the same is refused always, not only where the kernel is not there yet.
HYPERNETES_GUEST=/nonexistent scripts/nextest.sh -E "not package(hypernetes-tests) & not ($with_vms)"
step "a sample of them over an API server in process, on etcd"
scripts/on-etcd.sh -E 'package(hypernetes-apiserver) & binary(api) & test(/^(reads::|fence::|writes::[^e])/) | package(hypernetes-scheduler) & kind(test)'
step "guest kernels: the rest of ours, and Debian's"
wait "$kernel" || { cat "$kernel_log" >&2; exit 1; }
kernel=''
cat "$kernel_log"
scripts/guest-kernel.sh .tools/guest-stock
step "tests with VMs"
scripts/nextest.sh -E "$with_vms"
step "tests with VMs, on Debian's kernel: of hyperd a sample, the others are in test-long"
HYPERNETES_GUEST=$PWD/.tools/guest-stock scripts/nextest.sh -E '(package(hypernetes-hypervisor) & kind(test)) | (package(hypernetes-hyperd) & test(=a_pod_in_a_vm))'
scripts/test-e2e.sh
step "all passed in $((SECONDS - began)) s, nothing was skipped"
step_name=''
