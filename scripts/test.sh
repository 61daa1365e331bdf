#!/usr/bin/env bash
# make test: lints, then every test, VMs and stock clients included.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh
trap steps_table EXIT
began=$SECONDS

step "lints"
make --no-print-directory lint
step "guest kernels: ours, and Debian's"
scripts/guest-kernel.sh --build .tools/guest
scripts/guest-kernel.sh .tools/guest-stock
step "build (release)"
scripts/build.sh
step "build of the tests"
# With the release profile: what was built for the system is not built again.
scripts/nextest.sh --no-run --release --workspace
step "tests of each crate"
scripts/nextest.sh --release --workspace --exclude hypernetes-tests
step "tests with VMs, on Debian's kernel"
HYPERNETES_GUEST=$PWD/.tools/guest-stock scripts/nextest.sh --release -p hypernetes-hypervisor -p hypernetes-hyperd --test '*'
scripts/test-e2e.sh
step "all passed in $((SECONDS - began)) s, nothing was skipped"
step_name=''
