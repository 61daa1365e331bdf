#!/usr/bin/env bash
# make up: from a fresh machine to two tenants with running pods. What is in place already takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$1 bind=$2
if [ "$(id -u)" != 0 ]; then
    echo "make up needs root, for network namespaces and the VMs' users: sudo make up" >&2
    exit 1
fi
step() { printf '\n[%s] %s\n' "$(date +%H:%M:%S)" "$*"; }

step "1/6 packages"
scripts/dependencies.sh
step "2/6 build (release)"
scripts/build.sh
step "3/6 stock clients"
scripts/client-tools.sh .tools
step "4/6 guest kernel"
scripts/guest-kernel.sh .tools/guest
step "5/6 start"
target/release/hypernetes up --root "$root" --bind "$bind" --guest .tools/guest --detach
step "6/6 two tenants"
demo/demo.sh up "$root"
