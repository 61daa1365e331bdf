#!/usr/bin/env bash
# make fuzz: each target of fuzz/ for FUZZ_SECONDS, or those that are named. Stable Rust does: no sanitizer, since nearly all is
# safe code, but assertions and overflow checks.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}

export PATH=$PWD/.tools/bin:$PATH
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "installing cargo-fuzz"
    cargo install --quiet --locked --root .tools --target-dir target/cargo-fuzz cargo-fuzz --version 0.13.2
    rm -rf target/cargo-fuzz
fi
fuzz() { (cd fuzz && cargo fuzz "$@" --fuzz-dir .); }
read -ra targets <<<"${*:-$(fuzz list | tr '\n' ' ')}"
fuzz build --sanitizer none
for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    # Five seconds for one input, or 2 GiB, are too much.
    (cd fuzz && cargo fuzz run --sanitizer none --fuzz-dir . "$target" -- -max_total_time="$seconds" -timeout=5 \
        -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -verbosity=0)
done
