#!/usr/bin/env bash
# Puts a kernel for guests into DIR: DIR/vmlinuz, and DIR/modules/ if it has any. What is there already stays.
#
#   guest-kernel.sh [DIR]            Debian's cloud kernel, whose package is fetched and unpacked but not installed
#   guest-kernel.sh --build [DIR]    a small one of our own, from Debian's linux-source and guest/kernel/config: no modules,
#                                    boots two to three times faster. Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
build=
[ "${1:-}" = --build ] && { build=1 && shift; }
dir=${1:-.tools/guest}
say() { printf '  %s\n' "$*"; }

stock() {
    [ -f "$dir/vmlinuz" ] && exit 0
    # apt fetches as a user of its own.
    chmod 0777 "$work"
    apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get update -qq
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
    [ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64" >&2; exit 1; }
    say "fetching $package"
    (cd "$work" && apt-get download -qq "$package")
    dpkg-deb -x "$work"/"$package"_*.deb "$work/package"
    mkdir -p "$dir"
    rm -rf "$dir/modules"
    cp -a "$work"/package/lib/modules/* "$dir/modules"
    # Last: its presence says that the rest is there.
    cp "$work"/package/boot/vmlinuz-* "$dir/vmlinuz"
}

# Changes with the options and with the source.
key() {
    { cat guest/kernel/config; dpkg-query -W linux-source-6.1 2>/dev/null || true; } | sha256sum | cut -c1-16
}

own() {
    local needed=(linux-source-6.1 flex bison bc libelf-dev libssl-dev) missing=() wrong
    local config=$PWD/guest/kernel/config log=$work/build.log
    [ -f "$dir/vmlinuz" ] && [ "$(cat "$dir/key" 2>/dev/null)" = "$(key)" ] && exit 0
    for package in "${needed[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        [ "$(id -u)" = 0 ] || { echo "these packages are missing: sudo apt-get install ${missing[*]}" >&2; exit 1; }
        say "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
    say "unpacking $(dpkg-query -W -f='${Package} ${Version}' linux-source-6.1)"
    tar -xf /usr/src/linux-source-6.1.tar.xz -C "$work" --strip-components=1
    (
        cd "$work"
        make -s tinyconfig
        scripts/kconfig/merge_config.sh -m .config "$config"
        make -s olddefconfig
    ) >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
    # An option that the source does not know, or whose conditions are not met, is a mistake in the list.
    wrong=$(grep -E '^CONFIG_[A-Z0-9_]+=[ym]$' "$config" | grep -vxFf "$work/.config" || true)
    [ -z "$wrong" ] || { echo "options of guest/kernel/config that did not take: $wrong" >&2; exit 1; }
    say "building it with $(nproc) processors (about nine minutes of one)"
    make -s -C "$work" -j"$(nproc)" vmlinux >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
    mkdir -p "$dir"
    rm -rf "$dir/modules"
    strip -o "$work/stripped" "$work/vmlinux"
    install -m 0644 "$work/stripped" "$dir/vmlinuz"
    key >"$dir/key"
    say "$dir/vmlinuz, $(du -h "$dir/vmlinuz" | cut -f1)"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$build" ]; then own; else stock; fi
