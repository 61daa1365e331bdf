#!/usr/bin/env bash
# make test-long: what `make test` tries for seconds, for longer: hyperd is killed at HYPERNETES_KILL_POINTS (200) moments, each
# flood lasts HYPERNETES_ATTACK_SECONDS (60), properties are tried with PROPTEST_CASES (5000) inputs, and servers over one etcd go through
# HYPERNETES_FAULTS (60) faults, which HYPERNETES_FAULT_SEED (the second it is) chooses. What tries the API in process is done over etcd, too.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh
trap steps_table EXIT
export HYPERNETES_KILL_POINTS=${HYPERNETES_KILL_POINTS:-200} HYPERNETES_ATTACK_SECONDS=${HYPERNETES_ATTACK_SECONDS:-60}
export PROPTEST_CASES=${PROPTEST_CASES:-5000} NEXTEST_PROFILE=long
export HYPERNETES_FAULTS=${HYPERNETES_FAULTS:-60} HYPERNETES_FAULT_SEED=${HYPERNETES_FAULT_SEED:-$(date +%s)}

step "properties, with $PROPTEST_CASES inputs"
packages='none()'
for manifest in $(grep -lE '^proptest\b' -- */Cargo.toml */*/Cargo.toml); do
    packages+=" | package($(sed -nE 's/^name = "(.*)"/\1/p' "$manifest" | head -n 1))"
done
scripts/nextest.sh -E "not kind(test) & ($packages)"
step "servers over one etcd, $HYPERNETES_FAULTS faults by seed $HYPERNETES_FAULT_SEED"
scripts/nextest.sh --run-ignored only -E 'package(hypernetes-store) & test(servers_agree_for_a_long_time)'
step "everything over an API server in process, on etcd"
scripts/on-etcd.sh -E 'package(/^hypernetes-(apiserver|runtime|controllers|scheduler|identity|facade|network|volume|csi|netagent)$/)'
step "hyperd's tests with VMs, on Debian's kernel"
scripts/guest-kernel.sh .tools/guest-stock
HYPERNETES_GUEST=$PWD/.tools/guest-stock scripts/nextest.sh -E 'package(hypernetes-hyperd) & kind(test)'
step "servers over one etcd that stand still"
scripts/nextest.sh --run-ignored only -E 'package(hypernetes) & binary(etcd)'
scripts/test-e2e.sh 'binary(kill) or binary(attack)'
