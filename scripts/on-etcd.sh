#!/usr/bin/env bash
# scripts/nextest.sh with the arguments, with an etcd of Debian's for as long: API servers in process have their objects there, each
# under a prefix of its own, instead of in a directory.
set -euo pipefail
cd "$(dirname "$0")/.."
# Where there is room in memory: what is tried is not what a disk does.
directory=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
# Of this process alone, and so are its ports.
host=127.$((64 + ($$ >> 16 & 63))).$(($$ >> 8 & 255)).$(($$ & 255))
export HYPERNETES_TEST_ETCD=http://$host:23790
etcd --name=one --data-dir="$directory/data" --listen-client-urls="$HYPERNETES_TEST_ETCD" --advertise-client-urls="$HYPERNETES_TEST_ETCD" \
    --listen-peer-urls="http://$host:23800" --initial-advertise-peer-urls="http://$host:23800" \
    --initial-cluster="one=http://$host:23800" --quota-backend-bytes=$((8 << 30)) >"$directory/log" 2>&1 &
etcd=$!
trap 'kill -9 $etcd 2>/dev/null || true; wait $etcd 2>/dev/null || true; rm -rf "$directory"' EXIT
# bash has the connection itself.
until (: <"/dev/tcp/$host/23790") 2>/dev/null; do
    kill -0 $etcd 2>/dev/null || { cat "$directory/log" >&2; exit 1; }
    sleep 0.1
done
scripts/nextest.sh "$@"
