#!/usr/bin/env bash
# make down: ends everything that make up started.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x target/release/hypernetes ] || [ ! -d "$1" ]; then
    echo "nothing is up"
    exit 0
fi
target/release/hypernetes down --root "$1"
