#!/usr/bin/env bash
# Makes demo/web:1, an OCI archive at the given path, from Debian's busybox-static package: a shell, httpd and wget.
set -euo pipefail
archive=$1
[ -f "$archive" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
(cd "$work" && chmod 0777 . && apt-get download -qq busybox-static >/dev/null && dpkg-deb -x busybox-static_*.deb package)
root=$work/rootfs
mkdir -p "$root"/{bin,dev,etc,proc,root,srv,sys,tmp,usr,var}
chmod 1777 "$root/tmp"
install -m 0755 "$work/package/bin/busybox" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nweb:x:1000:\n' >"$root/etc/group"
umoci init --layout "$work/layout"
umoci new --image "$work/layout:web"
umoci insert --rootless --image "$work/layout:web" "$root" /
umoci config --image "$work/layout:web" --config.cmd /bin/sh --config.env PATH=/bin --config.workingdir /srv \
    --architecture amd64 --os linux
mkdir -p "$(dirname "$archive")"
skopeo copy --quiet --insecure-policy "oci:$work/layout:web" "oci-archive:$archive.new:demo/web:1"
mv "$archive.new" "$archive"
