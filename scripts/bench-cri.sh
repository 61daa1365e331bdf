#!/usr/bin/env bash
# What a pod costs on hyperd, and on containerd with runc and a bridge, in one run: `make bench`.
# Options go to bench-cri (see its --help), e.g. --pause-ms 1500. Needs root. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(containerd runc containernetworking-plugins iptables)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "  installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
cargo build --release -p hypernetes-benches
[ -f .tools/guest/vmlinuz ] || scripts/guest-kernel.sh .tools/guest
[ -f .tools/demo-web.tar ] || demo/build-image.sh .tools/demo-web.tar

work=$(mktemp -d /tmp/hypernetes-bench-XXXXXX)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    # VMs outlive hyperd; what a run that was interrupted has left of them ends here.
    for record in "$work"/hyperd/vmm/machines/*/pid; do
        [ -f "$record" ] && kill -9 "$(cut -d' ' -f1 "$record")" 2>/dev/null
    done
    umount -l "$work"/hyperd/netns/* "$work"/containerd-state/io.containerd.*/*/*/* 2>/dev/null || true
    ip link del hnbench0 2>/dev/null || true
    rm -rf "$work" 2>/dev/null || true
}
trap finish EXIT

# The same network for both: a bridge, and addresses from a file.
mkdir -p "$work/hyperd/cni/net.d" "$work/net.d"
for pair in "hyperd/cni/net.d 10.199.0.0/17" "net.d 10.199.128.0/17"; do
    read -r directory subnet <<<"$pair"
    cat >"$work/$directory/10-bench.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "bench-${directory%%/*}", "plugins": [{"type": "bridge", "bridge": "hnbench0",
 "ipam": {"type": "host-local", "dataDir": "$work/ipam", "ranges": [[{"subnet": "$subnet"}]]}}]}
JSON
done
if [ "${BENCH_NETWORK:-yes}" = no ]; then rm -f "$work/hyperd/cni/net.d/10-bench.conflist"; fi

target/release/hyperd --root "$work/hyperd" --guest .tools/guest --log warn 2>"$work/hyperd.log" &
pids+=($!)
cat >"$work/containerd.toml" <<TOML
version = 2
root = "$work/containerd-root"
state = "$work/containerd-state"
[grpc]
  address = "$work/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/demo/pause:1"
  # Where this one may not lower the score, no container would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$work/net.d"
TOML
containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
pids+=($!)
for socket in "$work/hyperd/hyperd.sock" "$work/containerd.sock"; do
    for _ in $(seq 300); do [ -S "$socket" ] && break; sleep 0.1; done
    [ -S "$socket" ] || { tail -n 20 "$work"/*.log >&2; exit 1; }
done
target/release/hypernetes image import --root "$work/hyperd" .tools/demo-web.tar --name demo/web:1 >/dev/null
for _ in $(seq 50); do ctr --address "$work/containerd.sock" version >/dev/null 2>&1 && break; sleep 0.2; done
# containerd's sandbox is a container that waits; ours is the VM.
skopeo --insecure-policy copy -q oci-archive:.tools/demo-web.tar "oci:$work/layout:web"
umoci config --image "$work/layout:web" --tag pause --config.cmd sleep --config.cmd 100000
for name in web pause; do
    skopeo --insecure-policy copy -q "oci:$work/layout:$name" "docker-archive:$work/$name.tar:docker.io/demo/$name:1"
    ctr --address "$work/containerd.sock" --namespace k8s.io images import "$work/$name.tar" >/dev/null
done
target/release/bench-cri --socket "$work/hyperd/hyperd.sock" --peer "$work/containerd.sock" --unconnected --image docker.io/demo/web:1 "$@"
