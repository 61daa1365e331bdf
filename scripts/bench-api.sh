#!/usr/bin/env bash
# What requests cost an API server, beside kube-apiserver and etcd, in one run: `make bench-api`.
# KUBE_APISERVER and ETCD name the peer's programs; without them the server is measured alone.
# Options go to `bench-api run` (see its --help), e.g. --workloads create@8,get@64 --seconds 5 --pairs 1.
# AS=operator measures the operator's cluster instead of a tenant's; SERVER is another binary of ours; ROOT another directory
# than one in /tmp, whose disk counts. TENANTS=1,10,100,1000 adds the same load over so many tenants, RIGHTS=10,1000,10000 a load
# beside so many roles and bindings, START=yes starts with no objects and with OBJECTS (100,000). Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.tools/bin:$PATH
server=${SERVER:-target/release/hypernetes}
bench=target/release/bench-api
objects=${OBJECTS:-100000}
work=${ROOT:-$(mktemp -d /tmp/hypernetes-bench-XXXXXX)}
mkdir -p "$work"
pids=()
finish() {
    # kube-apiserver does not end while etcd is not there.
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "${work:?}/server" "$work/peer"
    rmdir "$work" 2>/dev/null || true
}
trap finish EXIT
# Connections of a thousand watchers, on both sides.
ulimit -n "$(ulimit -Hn)"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_ready() { # kubeconfig, pid, log
    for _ in $(seq 600); do
        kubectl --kubeconfig "$1" get --raw /readyz >/dev/null 2>&1 && return
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$3" >&2
    return 1
}

root=$work/server
mkdir -p "$root"
port=$(free_port)
ours="exec $server server --root $root --bind 127.0.0.1:$port --log warn"
sh -c "$ours" >"$work/server/log" 2>&1 &
pid=$!
pids+=("$pid")
until_ready "$root/operator.kubeconfig" "$pid" "$root/log"
target=$root/operator.kubeconfig
if [ "${AS:-tenant}" = tenant ]; then
    "$server" tenant create --root "$root" bench >/dev/null
    "$server" tenant kubeconfig --root "$root" bench --static >"$root/bench.kubeconfig" 2>/dev/null
    # Its budgets are there and counted, and larger than what is asked of one server.
    operator=(kubectl --kubeconfig "$root/operator.kubeconfig")
    project=$("${operator[@]}" get projects -o jsonpath='{.items[?(@.spec.displayName=="bench")].metadata.name}')
    "${operator[@]}" patch project "$project" --type merge -p '{"spec": {"limits": {"objects": 10000000, "storedBytes": 17179869184,
        "requests": 100000, "connections": 100000, "watches": 100000, "requestBytes": 1073741824, "responseBytes": 17179869184,
        "serverMilliCpus": 1000000}}}' >/dev/null
    target=$root/bench.kubeconfig
fi
targets=(--target "hypernetes=$target,pid=$pid")

if [ -n "${KUBE_APISERVER:-}" ] && [ -n "${ETCD:-}" ]; then
    peer=$work/peer
    mkdir -p "$peer"
    client=$(free_port) members=$(free_port) secure=$(free_port)
    # An authority, the server's certificate, and a client's, whose group a binding makes an admin: nobody who is in
    # system:masters is asked for rights or waits for others.
    openssl ecparam -name prime256v1 -genkey -noout -out "$peer/ca.key" 2>/dev/null
    openssl req -x509 -new -key "$peer/ca.key" -subj /CN=bench-ca -days 30 -out "$peer/ca.crt" 2>/dev/null
    issue() { # name, subject, extensions
        openssl ecparam -name prime256v1 -genkey -noout -out "$peer/$1.key" 2>/dev/null
        openssl req -new -key "$peer/$1.key" -subj "$2" 2>/dev/null |
            openssl x509 -req -CA "$peer/ca.crt" -CAkey "$peer/ca.key" -CAcreateserial -days 30 -extfile <(echo "$3") \
                -out "$peer/$1.crt" 2>/dev/null
    }
    issue server /CN=kube-apiserver "subjectAltName=IP:127.0.0.1"
    issue admin /O=system:masters/CN=admin "extendedKeyUsage=clientAuth"
    issue bench /O=bench/CN=bench "extendedKeyUsage=clientAuth"
    openssl genrsa -out "$peer/sa.key" 2048 2>/dev/null
    kubeconfig() { # name
        cat <<YAML
apiVersion: v1
kind: Config
current-context: peer
clusters: [{name: peer, cluster: {server: "https://127.0.0.1:$secure", certificate-authority: "$peer/ca.crt"}}]
users: [{name: peer, user: {client-certificate: "$peer/$1.crt", client-key: "$peer/$1.key"}}]
contexts: [{name: peer, context: {cluster: peer, user: peer}}]
YAML
    }
    for name in admin bench; do kubeconfig "$name" >"$peer/$name.kubeconfig"; done
    # fsync is on, as it is by default; the rest is what upstream's documents recommend or have as defaults.
    etcd_line="$ETCD --data-dir $peer/etcd --listen-client-urls http://127.0.0.1:$client --advertise-client-urls http://127.0.0.1:$client \
        --listen-peer-urls http://127.0.0.1:$members --log-level warn --quota-backend-bytes 8589934592"
    # What is turned off asks of every namespace what only a controller that does not run here makes.
    apiserver_line="$KUBE_APISERVER --etcd-servers http://127.0.0.1:$client --bind-address 127.0.0.1 --secure-port $secure \
        --client-ca-file $peer/ca.crt --tls-cert-file $peer/server.crt --tls-private-key-file $peer/server.key \
        --authorization-mode RBAC --anonymous-auth=true --service-cluster-ip-range 10.0.0.0/16 --disable-admission-plugins ServiceAccount \
        --service-account-issuer https://localhost --service-account-key-file $peer/sa.key --service-account-signing-key-file $peer/sa.key"
    sh -c "exec $etcd_line" >"$peer/etcd.log" 2>&1 &
    etcd=$!
    sh -c "exec $apiserver_line" >"$peer/apiserver.log" 2>&1 &
    apiserver=$!
    pids+=("$apiserver" "$etcd")
    until_ready "$peer/admin.kubeconfig" "$apiserver" "$peer/apiserver.log"
    kubectl --kubeconfig "$peer/admin.kubeconfig" create clusterrolebinding bench --clusterrole cluster-admin --group bench >/dev/null
    targets+=(--target "kube+etcd=$peer/bench.kubeconfig,pid=$apiserver+$etcd")
else
    echo "KUBE_APISERVER and ETCD name no peer: $server is measured alone" >&2
fi

"$bench" run "${targets[@]}" --disk "$work" "$@"

if [ -n "${TENANTS:-}" ]; then
    # With the operator's credential, which sees them all: its own requests have no budget.
    echo "the same load over so many tenants:"
    "$bench" run --target "hypernetes=$root/operator.kubeconfig,pid=$pid" --workloads "tenants@${TENANTS//,/,tenants@}" "$@"
fi

if [ -n "${RIGHTS:-}" ]; then
    echo "a get, beside so many roles and as many bindings of others:"
    "$bench" run "${targets[@]}" --workloads "rights@${RIGHTS//,/,rights@}" "$@"
fi

if [ "${START:-}" = yes ]; then
    stop() {
        kill "$1"
        wait "$1" 2>/dev/null || true
    }
    "$bench" fill --target "hypernetes=$target" --namespace filled --objects "$objects"
    [ -z "${apiserver:-}" ] || "$bench" fill --target "peer=$peer/bench.kubeconfig" --namespace filled --objects "$objects"
    for pid in "${pids[@]}"; do stop "$pid"; done
    pids=()
    echo "from start to /readyz:"
    empty="rm -rf $work/empty; mkdir -p $work/empty"
    echo -n "  hypernetes, new:             "
    "$bench" start --before "$empty" --kubeconfig "$work/empty/operator.kubeconfig" \
        --start "exec $server server --root $work/empty --bind 127.0.0.1:$port --log error"
    echo -n "  hypernetes, $objects objects: "
    "$bench" start --kubeconfig "$target" --start "$ours"
    if [ -n "${apiserver:-}" ]; then
        # etcd is behind kube-apiserver's end until that has ended.
        echo -n "  peer, $objects objects:       "
        "$bench" start --kubeconfig "$peer/admin.kubeconfig" --times 3 --start "$etcd_line >$peer/etcd.log 2>&1 & etcd=\$!
            $apiserver_line >$peer/apiserver.log 2>&1 & apiserver=\$!
            trap 'kill \$apiserver; wait \$apiserver; kill \$etcd; wait' TERM; wait"
        echo -n "  peer, new:                   "
        "$bench" start --kubeconfig "$peer/admin.kubeconfig" --times 3 --before "rm -rf $peer/etcd" --start "$etcd_line >$peer/etcd.log 2>&1 & etcd=\$!
            $apiserver_line >$peer/apiserver.log 2>&1 & apiserver=\$!
            trap 'kill \$apiserver; wait \$apiserver; kill \$etcd; wait' TERM; wait"
    fi
    rm -rf "$work/empty"
fi
