#!/usr/bin/env bash
# What an image costs: to unpack and build it, beside tar -x of the same layers, and to read from it in a VM. `make bench-image`.
# Needs root. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-5}
big_mib=300
[ -f .tools/guest/vmlinuz ] || scripts/guest-kernel.sh .tools/guest
[ -f .tools/demo-web.tar ] || demo/build-image.sh .tools/demo-web.tar

work=$(mktemp -d /tmp/hypernetes-bench-XXXXXX)
hyperd=
pods=()
stop() {
    [ -n "$hyperd" ] || return 0
    # It ends what it has made, but for the pods.
    [ ${#pods[@]} = 0 ] || target/release/hyperctl --root "$work/hyperd" rm -f "${pods[@]}" >/dev/null || true
    pods=()
    kill "$hyperd" 2>/dev/null || true
    wait "$hyperd" 2>/dev/null || true
    hyperd=
}
trap 'stop; rm -rf "$work"' EXIT
start() {
    stop
    rm -rf "$work/hyperd"
    target/release/hyperd --root "$work/hyperd" --guest .tools/guest --log warn 2>"$work/hyperd.log" &
    hyperd=$!
    for _ in $(seq 200); do [ -S "$work/hyperd/hyperd.sock" ] && return; sleep 0.1; done
    cat "$work/hyperd.log" >&2
    exit 1
}
now() { echo $((${EPOCHREALTIME/./} / 1000)); }
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

echo "making an image: this machine's /usr/lib and /usr/share, up to 20000 files, and $big_mib MiB of noise"
mkdir "$work/archive" "$work/blobs"
(cd / && find usr/share usr/lib -xdev -type f -size -4096k >"$work/all")
head -n 20000 "$work/all" >"$work/files"
tar -C / -cf "$work/files.tar" -T "$work/files"
head -c "${big_mib}M" /dev/urandom >"$work/big"
tar -C "$work" -cf "$work/big.tar" big
tar -C "$work/archive" -xf .tools/demo-web.tar
name=$(umoci ls --layout "$work/archive" | head -n 1)
umoci raw add-layer --image "$work/archive:$name" "$work/files.tar"
umoci raw add-layer --image "$work/archive:$name" "$work/big.tar"
skopeo copy --quiet --insecure-policy "oci:$work/archive:$name" "oci-archive:$work/image.tar:bench/image:1"
tar -C "$work/blobs" -xf "$work/image.tar"
layers=()
# The base layer is small, and of an archiver that leaves the end of the archive out.
for blob in "$work"/blobs/blobs/sha256/*; do
    if gzip -t "$blob" 2>/dev/null && [ "$(stat -c %s "$blob")" -gt 10000000 ]; then layers+=("$blob"); fi
done
mib=$(($(for layer in "${layers[@]}"; do gzip -dc "$layer"; done | wc -c) >> 20))

for _ in $(seq "$rounds"); do
    began=$(now)
    mkdir "$work/unpacked"
    for layer in "${layers[@]}"; do tar -C "$work/unpacked" -xzf "$layer"; done
    echo $(($(now) - began)) >>"$work/tar"
    rm -rf "$work/unpacked"
    start
    began=$(now)
    target/release/hyperctl --root "$work/hyperd" load "$work/image.tar" >/dev/null
    echo $(($(now) - began)) >>"$work/load"
done
hyperctl=(target/release/hyperctl --root "$work/hyperd")
for round in $(seq "$rounds"); do
    "${hyperctl[@]}" run -d --network none --name "read$round" -m 128m bench/image:1 sleep 1000 >/dev/null
    pods+=("read$round")
    sleep 1
    began=$(now)
    "${hyperctl[@]}" exec "read$round" sh -c "cat /big >/dev/null"
    echo $(($(now) - began)) >>"$work/read"
done
tar_ms=$(median <"$work/tar") load_ms=$(median <"$work/load") read_ms=$(median <"$work/read")
printf '\n%d layers, %d MiB unpacked, medians of %d\n' "${#layers[@]}" "$mib" "$rounds"
printf '  tar -x                         %6d ms\n' "$tar_ms"
printf '  hyperctl load                  %6d ms   %d %% of the speed of tar -x\n' "$load_ms" $((100 * tar_ms / load_ms))
printf '  reading %d MiB in the VM      %6d ms   %d MB/s\n' "$big_mib" "$read_ms" $((big_mib * 1048576 / 1000 / read_ms))
