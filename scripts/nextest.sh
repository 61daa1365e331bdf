#!/usr/bin/env bash
# cargo nextest run for the whole workspace, in the release profile, with the arguments. Select by -E and not by -p, for which what
# depends on several crates' features would be built again. Where HYPERNETES_TEST_TIMES names a file, adds a line for each test to it: seconds, name.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.tools/cargo/bin:$PATH
report=${CARGO_TARGET_DIR:-target}/nextest/${NEXTEST_PROFILE:-default}/junit.xml
rm -f "$report"
code=0
cargo nextest run ${HYPERNETES_CARGO_CONFIG:+--config "$HYPERNETES_CARGO_CONFIG"} --release --workspace "$@" || code=$?
if [ -n "${HYPERNETES_TEST_TIMES:-}" ] && [ -f "$report" ]; then
    sed -nE 's/.*<testcase name="([^"]*)" classname="([^"]*)".* time="([^"]*)".*/\3 \2 \1/p' "$report" >>"$HYPERNETES_TEST_TIMES"
fi
exit $code
