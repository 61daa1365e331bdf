#!/usr/bin/env bash
# make test-long: what `make test` tries for seconds, for longer: hyperd is killed at HYPERNETES_KILL_POINTS (200) moments, each
# flood lasts HYPERNETES_ATTACK_SECONDS (60), and properties are tried with PROPTEST_CASES (5000) inputs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh
trap steps_table EXIT
export HYPERNETES_KILL_POINTS=${HYPERNETES_KILL_POINTS:-200} HYPERNETES_ATTACK_SECONDS=${HYPERNETES_ATTACK_SECONDS:-60}
export PROPTEST_CASES=${PROPTEST_CASES:-5000} NEXTEST_PROFILE=long

step "properties, with $PROPTEST_CASES inputs"
packages='none()'
for manifest in $(grep -lE '^proptest\b' -- */Cargo.toml */*/Cargo.toml); do
    packages+=" | package($(sed -nE 's/^name = "(.*)"/\1/p' "$manifest" | head -n 1))"
done
scripts/nextest.sh -E "not kind(test) & ($packages)"
scripts/test-e2e.sh 'binary(kill) or binary(attack)'
