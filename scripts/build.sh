#!/usr/bin/env bash
# Builds target/release/{hypernetes,hyperd,hyperctl,hypernetes-{cni,vmm},libhypernetes_fork_preload.so}, and hyperstart, static,
# beside them: it is PID 1 of VMs that hold nothing else. With --tests, all crates' tests as well.
set -euo pipefail
cd "$(dirname "$0")/.."
# Where its output goes: CARGO_TARGET_DIR is for whoever keeps several builds.
target=${CARGO_TARGET_DIR:-target}
what=(-p hypernetes -p hypernetes-hyperd -p hypernetes-hyperctl -p hypernetes-hypervisor -p hypernetes-netagent -p hypernetes-fork-preload)
# At once: what cargo builds for some packages has other features of dependencies, and would be built again for all.
[ "${1:-}" = --tests ] && what=(--workspace --all-targets)
# HYPERNETES_CARGO_CONFIG names a file that says more of how (.ci/cargo.toml); of hyperstart nothing, which is measured by its size.
cargo build ${HYPERNETES_CARGO_CONFIG:+--config "$HYPERNETES_CARGO_CONFIG"} --release "${what[@]}"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile guest -p hypernetes-hyperstart --target x86_64-unknown-linux-gnu
install -m 0755 "$target/x86_64-unknown-linux-gnu/guest/hypernetes-hyperstart" "$target/release/hyperstart"
