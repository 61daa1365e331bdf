#!/usr/bin/env bash
# Runs upstream's critest on a hyperd of its own, and prints its counts.
#
#   scripts/critest.sh CRITEST [critest's arguments, e.g. --ginkgo.focus=Seccomp]
#
# CRITEST is the binary (`go test -c ./cmd/critest` in a checkout of kubernetes-sigs/cri-tools). All of it happens in
# network and mount namespaces of its own: the registries that the tests name are one on loopback, with images made of
# busybox. Needs root, docker-registry, openssl, gcc, skopeo, umoci, containernetworking-plugins, iptables; a Debian mirror for apt-get, once.
# HYPERNETES names another binary than target/release/hypernetes, CRITEST_ROOT another directory than /tmp/hn-critest.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
critest=$(realpath "$1"); shift
export HYPERNETES=$(realpath "${HYPERNETES:-$here/target/release/hypernetes}")
export HYPERNETES_GUEST=$(realpath "${HYPERNETES_GUEST:-$here/.tools/guest}")
export CRITEST_ROOT=${CRITEST_ROOT:-/tmp/hn-critest}
if [ -z "${CRITEST_INSIDE:-}" ]; then
    # The last thing that needs the world outside: Debian's ordinary busybox. The static one runs `ls` and others inside
    # of its shell, where one of the tests wants to see that the file cannot be run.
    mkdir -p "$CRITEST_ROOT/deb"
    compgen -G "$CRITEST_ROOT/deb/*.deb" >/dev/null || (cd "$CRITEST_ROOT/deb" && apt-get -qq download busybox)
    exec env CRITEST_INSIDE=1 unshare --net --mount --propagation private "$0" "$critest" "$@"
fi

registries=(registry.k8s.io k8s.gcr.io gcr.io)
root=$CRITEST_ROOT
images=$root/images
mkdir -p "$root" && chmod 711 "$root"
pids=()
stop() {
    local pid
    # The VMs that are left, by their records; then what was started here.
    for record in "$root"/hn/sandboxes/*.json; do
        [ -e "$record" ] && pid=$(jq -r '.vm.pid // empty' "$record") && [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null
    done
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    wait 2>/dev/null
    umount -l "$root"/hn/netns/* 2>/dev/null; rm -rf "$root/hn" "$root/tmp"
}
trap stop EXIT

# ---- images -----------------------------------------------------------------------------------------------------

programs() {
    # A server that looks like the one that the tests know: `nginx "master process" PORT` answers every request.
    cat >"$images/nginx.c" <<'C'
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 2 ? atoi(argv[2]) : 80)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return perror("listening"), 1;
    FILE *pid = fopen("/var/run/nginx.pid", "w");
    if (pid) fprintf(pid, "%d\n", getpid()), fclose(pid);
    printf("httpd: serving\n"), fflush(stdout);
    for (;;) {
        char request[4096];
        int connection = accept(listener, 0, 0);
        if (connection < 0) continue;
        if (read(connection, request, sizeof request) > 0)
            dprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
        close(connection);
    }
}
C
    cat >"$images/euid.c" <<'C'
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("Effective uid: %d\n", geteuid()) < 0; }
C
    for program in nginx euid; do gcc -static -O1 -o "$images/$program" "$images/$program.c"; done
}

# busybox with the libraries that it needs.
unpack_busybox() {
    dpkg -x "$root"/deb/busybox_*.deb "$images/x"
    install -D "$images/x/bin/busybox" "$images/busybox/bin/busybox"
    ldd "$images/busybox/bin/busybox" | grep -o '/lib[^ ]*' | xargs -I{} cp -L --parents {} "$images/busybox"
}

# The root that every image shares.
base_root() {
    local to=$1 applet
    mkdir -p "$to"/{bin,etc,tmp,var/run,home,root,usr/bin,usr/sbin,dev,proc,sys}
    chmod 1777 "$to/tmp"; chmod 1777 "$to/var/run"
    cp -a "$images/busybox/." "$to/"
    for applet in $("$images/busybox/bin/busybox" --list); do [ "$applet" = busybox ] || ln -sf busybox "$to/bin/$applet"; done
    # One test hides this file, and no other.
    ln -f "$to/bin/busybox" "$to/bin/ls"
    # Debian's busybox lacks these two.
    printf '#!/bin/sh\nexec pidof "$1"\n' >"$to/bin/pgrep"
    printf '#!/bin/sh\nexec cat /proc/sysvipc/shm\n' >"$to/bin/ipcs"
    chmod 755 "$to/bin/pgrep" "$to/bin/ipcs"
    printf '%s\n' root:x:0:0:root:/root:/bin/sh www-data:x:33:33::/home:/bin/sh default-user:x:1000:1000::/home:/bin/sh \
        nobody:x:65534:65534:nobody:/home:/bin/false >"$to/etc/passwd"
    printf '%s\n' root:x:0: www-data:x:33: default-user:x:1000: group-defined-in-image:x:50000:default-user \
        nogroup:x:65534: >"$to/etc/group"
}

# image NAME [umoci's configuration …]: an image with what is in $images/extra besides the base.
image() {
    local name=$1 layout=$images/layout; shift
    local tag=${name//[^a-zA-Z0-9.-]/_}
    umoci new --image "$layout:$tag"
    umoci unpack --image "$layout:$tag" "$images/bundle"
    base_root "$images/bundle/rootfs"
    cp -a "$images/extra/." "$images/bundle/rootfs/"
    umoci repack --image "$layout:$tag" "$images/bundle"
    [[ "$*" = *--config.cmd* ]] || set -- --config.cmd sh "$@"
    umoci config --image "$layout:$tag" "$@"
    skopeo copy -q --dest-tls-verify=false "oci:$layout:$tag" "docker://$name"
    rm -rf "$images/bundle" "$images/extra"; mkdir "$images/extra"
}

put() { install -D -m "$1" "$images/$2" "$images/extra/$3"; }
named() { echo "$1" >"$images/name"; put 644 name etc/image-name; }

make_images() {
    local staging=gcr.io/k8s-staging-cri-tools e2e=registry.k8s.io/e2e-test-images name
    rm -rf "$images"; mkdir -p "$images/extra"
    umoci init --layout "$images/layout"
    programs
    unpack_busybox
    image $e2e/busybox:1.29-2
    for name in $e2e/nginx:1.14-2 $e2e/httpd:2.4.39-4; do
        put 755 nginx usr/sbin/nginx
        image $name --config.entrypoint /usr/sbin/nginx --config.cmd "master process" --config.cmd 80
    done
    put 755 nginx usr/sbin/nginx
    image $staging/hostnet-nginx-amd64:latest --config.entrypoint /usr/sbin/nginx --config.cmd "master process" \
        --config.cmd 12003
    put 4755 euid usr/bin/euid
    image $e2e/nonewprivs:1.3 --config.entrypoint /usr/bin/euid
    named uid; image $staging/test-image-user-uid:latest --config.user 1002
    named username; image $staging/test-image-user-username:latest --config.user www-data
    named uid-group; image $staging/test-image-user-uid-group:latest --config.user 1003:users
    named username-group; image $staging/test-image-user-username-group:latest --config.user www-data:100
    named predefined; image $staging/test-image-predefined-group:latest --config.user 1000
    for name in latest:latest tag:test tag:all 1:latest 2:latest 3:latest tags:1; do
        named "$name"; image "$staging/test-image-$name"
    done
    for name in 2 3; do
        skopeo copy -q --src-tls-verify=false --dest-tls-verify=false docker://$staging/test-image-tags:{1,$name}
    done
    named pause; image registry.k8s.io/pause:3.9
    skopeo copy -q --src-tls-verify=false --dest-tls-verify=false docker://{registry.k8s.io,k8s.gcr.io}/pause:3.9
    touch "$images/complete"
}

# ---- registry, network ------------------------------------------------------------------------------------------

certificate() {
    local names
    names=$(printf 'DNS:%s,' "${registries[@]}")
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=critest -addext "subjectAltName=${names%,}" \
        -addext basicConstraints=critical,CA:FALSE -keyout "$root/key.pem" -out "$root/cert.pem" 2>/dev/null
}

registry() {
    ip link set lo up
    cat >"$root/registry.yml" <<YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $root/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:443", tls: {certificate: $root/cert.pem, key: $root/key.pem}}
YAML
    { cat /etc/hosts; printf '127.0.0.1 %s\n' "${registries[@]}"; } >"$root/hosts"
    mount --bind "$root/hosts" /etc/hosts
    docker-registry serve "$root/registry.yml" >"$root/registry.log" 2>&1 &
    pids+=($!)
    until (: </dev/tcp/127.0.0.1/443) 2>/dev/null; do sleep 0.1; done
}

# A pod network of the standard plugins: a bridge, addresses from a file, host ports.
network() {
    mkdir -p "$root/hn/cni/net.d"
    cat >"$root/hn/cni/net.d/10.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "critest", "plugins": [
  {"type": "bridge", "bridge": "hn-critest", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$root/leases", "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.88.0.0/16"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
JSON
    rm -rf "$root/leases"
    echo 1 >/proc/sys/net/ipv4/ip_forward
}

# ---- the run ----------------------------------------------------------------------------------------------------

[ -s "$root/cert.pem" ] || certificate
registry
if [ ! -e "$images/complete" ]; then
    echo "  making the test images"
    rm -rf "$root/registry"
    # In the background, because bash ignores errors inside of what is tested.
    make_images >"$root/images.log" 2>&1 &
    wait $! || { tail -20 "$root/images.log" >&2; exit 1; }
fi
rm -rf "$root/hn" "$root/tmp"; mkdir "$root/tmp"; export TMPDIR=$root/tmp
network
SSL_CERT_FILE=$root/cert.pem "$HYPERNETES" hyperd --root "$root/hn" --allow-host-path "$root/tmp" --internal-registries --log "${CRITEST_LOG:-info}" >"$root/hyperd.log" 2>&1 &
pids+=($!)
hyperd=$!
until [ -S "$root/hn/hyperd.sock" ]; do
    kill -0 $hyperd 2>/dev/null || { tail -20 "$root/hyperd.log" >&2; exit 1; }
    sleep 0.1
done
endpoint=unix://$root/hn/hyperd.sock
mkdir -p "$root/report"
"$critest" --runtime-endpoint "$endpoint" --image-endpoint "$endpoint" --ginkgo.no-color \
    --ginkgo.timeout 3h --report-dir "$root/report" "$@" >"$root/critest.log" 2>&1 || true
grep -E '^(Ran |FAIL!|SUCCESS!|PASS|FAIL$)|^\[SynchronizedBeforeSuite\]|^ *\[(FAIL|TIMEDOUT|PANICKED)\]' "$root/critest.log" | tail -80
echo "  $root/critest.log and $root/hyperd.log say more"
