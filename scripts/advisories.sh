#!/usr/bin/env bash
# make advisories DB=…: known vulnerabilities of what Cargo.lock names. DB is a clone of RustSec's advisory-db, or what git can
# clone one from.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${1:-}" ] || { echo "say where RustSec's advisory-db is: make advisories DB=DIR" >&2; exit 1; }
database=$1
[ -d "$database" ] && database=file://$(realpath "$database")
export PATH=$PWD/.tools/cargo/bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# cargo-deny takes addresses with a domain only: git fetches that one from DB.
address=https://advisory-db.invalid/advisory-db
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.$database.insteadOf GIT_CONFIG_VALUE_0=$address
{
    cat deny.toml
    printf '\n[advisories]\ngit-fetch-with-cli = true\ndb-path = "%s"\ndb-urls = ["%s"]\n' "$work" "$address"
} >"$work/deny.toml"
cargo deny --config "$work/deny.toml" check advisories
