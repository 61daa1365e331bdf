#!/usr/bin/env bash
# make test: lints, then every test, VMs and stock clients included.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n[%s] %s\n' "$(date +%H:%M:%S)" "$*"; }
began=$SECONDS

if ! cargo nextest --version >/dev/null 2>&1; then
    step "installing cargo-nextest"
    cargo install --quiet --locked cargo-nextest
fi
if [ ! -x .tools/bin/cargo-deny ]; then
    step "installing cargo-deny"
    cargo install --debug --quiet --locked --root .tools --target-dir target/cargo-deny cargo-deny --version 0.20.2
    rm -rf target/cargo-deny
fi
step "lints"
make --no-print-directory lint
step "guest kernels: ours, and Debian's"
scripts/guest-kernel.sh --build .tools/guest
scripts/guest-kernel.sh .tools/guest-stock
step "build (release)"
scripts/build.sh
step "tests of each crate"
# With the release profile: what was built for the system is not built again.
cargo nextest run --release --workspace --exclude hypernetes-tests
step "tests with VMs, on Debian's kernel"
HYPERNETES_GUEST=$PWD/.tools/guest-stock cargo nextest run --release -p hypernetes-hypervisor -p hypernetes-hyperd --test '*'
step "tests of the whole system"
scripts/test-e2e.sh
step "all passed in $((SECONDS - began)) s, nothing was skipped"
