#!/usr/bin/env bash
# Installs Debian's packages that building and running need, those that are missing. Needs root for that only.
set -euo pipefail
packages=(
    build-essential ca-certificates containernetworking-plugins cpio curl docker-registry e2fsprogs erofs-utils etcd-server iproute2
    iptables jq nftables npm protobuf-compiler
    python3-venv qemu-system-x86 qemu-utils skopeo tzdata umoci busybox-static xz-utils
)
# Where npm or python come from elsewhere, Debian's are not needed.
command -v npm >/dev/null && packages=("${packages[@]/npm/}")
python3 -c 'import ensurepip, venv' 2>/dev/null && packages=("${packages[@]/python3-venv/}")
# Twice: a package that was there already, from other sources, may have had to go for one that was missing.
for pass in 1 2; do
    missing=()
    for package in ${packages[@]}; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || break
    if [ "$(id -u)" != 0 ]; then
        echo "these packages are missing, and installing them needs root: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "  installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    [ "$pass" = 2 ] || apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
done
if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust 1.95 or newer (rustup), then run this again" >&2
    exit 1
fi
