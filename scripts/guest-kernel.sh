#!/usr/bin/env bash
# Puts the guest's kernel into DIR: DIR/vmlinuz and DIR/modules/, from Debian's cloud kernel package, which is fetched and
# unpacked but not installed. What is there already stays.
set -euo pipefail
dir=${1:-.tools/guest}
[ -f "$dir/vmlinuz" ] && [ -d "$dir/modules" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt fetches as a user of its own.
chmod 0777 "$work"
apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get update -qq
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64" >&2; exit 1; }
echo "  fetching $package"
(cd "$work" && apt-get download -qq "$package")
dpkg-deb -x "$work"/"$package"_*.deb "$work/package"
mkdir -p "$dir"
rm -rf "$dir/modules"
cp -a "$work"/package/lib/modules/* "$dir/modules"
# Last: its presence says that the rest is there.
cp "$work"/package/boot/vmlinuz-* "$dir/vmlinuz"
