#!/usr/bin/env bash
# make.sh OLD OUT: the directory of a system of before, with what a real one has, as OUT/data.tar.xz, and what its API said of all
# objects as OUT/objects.json.xz. OLD is a hypernetes binary of e5e31f4; nothing is built. Needs root, kubectl, curl, jq and xz.
set -euo pipefail
if [ -z "${HYPERNETES_IN_NAMESPACE:-}" ]; then
    # The host's name is the node's.
    HYPERNETES_IN_NAMESPACE=1 exec unshare --uts --net --mount "$0" "$@"
fi
hostname node-1
ip link set lo up
old=$(realpath "$1") out=$(realpath "$2")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
# What files name is this place, whoever makes them.
mount -t tmpfs tmpfs /opt
root=/opt/hypernetes/data bin=/opt/hypernetes/bin guest=/opt/hypernetes/guest
mkdir -p "$bin" "$guest"
cp "$old" "$bin/hypernetes"
# `up` starts hyperd behind the server. This one ends at once, and `up` with it; the server runs on.
for program in hyperd hyperstart hypernetes-cni hypernetes-vmm; do
    printf '#!/bin/sh\nexit 1\n' >"$bin/$program"
    chmod +x "$bin/$program"
done
touch "$guest/vmlinuz"
hypernetes=$bin/hypernetes
server=''
finish() {
    [ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

"$hypernetes" up --root "$root" --bind 127.0.0.1:6443 --guest "$guest" >"$work/up.log" 2>&1 || true
server=$(cut -d' ' -f1 "$root/run/server.pid") || { cat "$work/up.log" >&2; exit 1; }
export HOME=$work KUBECONFIG=$root/server/operator.kubeconfig
operator() { kubectl --kubeconfig "$root/server/operator.kubeconfig" "$@"; }
tenant() { kubectl --kubeconfig "$root/tenants/$1-static.kubeconfig" "${@:2}"; }
for name in acme globex; do
    "$hypernetes" tenant --root "$root" create "$name" --directory "$root/tenants/given" >/dev/null
    "$hypernetes" tenant --root "$root" kubeconfig --static "$name" >"$root/tenants/$name-static.kubeconfig"
done
acme=$(operator get projects -o json | jq -r '.items[] | select(.spec.displayName == "acme").metadata.name')

# Keystone: a domain of its own with a user, a group, and whoever may read.
password=$(sed -n "s/^export OS_PASSWORD='\\{0,1\\}\\([^']*\\)'\\{0,1\\}$/\\1/p" "$root/server/admin.openrc")
keystone=https://127.0.0.1:6443/identity/v3
call() {
    local method=$1 path=$2 body=${3:-}
    curl -sS --fail-with-body --cacert "$root/server/pki/ca.crt" -X "$method" -H "X-Auth-Token: $token" \
        -H 'Content-Type: application/json' ${body:+--data "$body"} "$keystone$path"
}
login='{"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": "'$password'"}}}, "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}}'
token=$(curl -sS --fail-with-body -D - -o /dev/null --cacert "$root/server/pki/ca.crt" -H 'Content-Type: application/json' --data "$login" \
    "$keystone/auth/tokens" | tr -d '\r' | sed -n 's/^[Xx]-[Ss]ubject-[Tt]oken: //p')
corp=$(call POST /domains '{"domain": {"name": "corp"}}' | jq -r .domain.id)
member=$(call GET /roles | jq -r '.roles[] | select(.name == "member").id')
reader=$(call GET /roles | jq -r '.roles[] | select(.name == "reader").id')
ann=$(call POST /users '{"user": {"name": "ann", "password": "ann of before", "domain_id": "'"$corp"'"}}' | jq -r .user.id)
bob=$(call POST /users '{"user": {"name": "bob", "password": "bob of before", "domain_id": "default"}}' | jq -r .user.id)
group=$(call POST /groups '{"group": {"name": "readers", "domain_id": "default"}}' | jq -r .group.id)
call PUT "/groups/$group/users/$bob"
call PUT "/projects/$acme/users/$ann/roles/$member"
call PUT "/projects/$acme/groups/$group/roles/$reader"

# A node, and what both tenants have under the same names.
operator create -f - <<'YAML' >/dev/null
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {kubernetes.io/hostname: node-1}}
YAML
operator patch node node-1 --subresource=status --type merge -p '{"status": {
    "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"}, "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is",
        "lastHeartbeatTime": "'"$(date -u +%FT%TZ)"'", "lastTransitionTime": "'"$(date -u +%FT%TZ)"'"}]}}' >/dev/null
for name in acme globex; do
    sed "s/TENANT/$name/g" "$here/objects.yaml" | tenant "$name" create --validate=false -f - >/dev/null
    tenant "$name" wait --for=jsonpath='{.status.phase}'=Bound pvc/notes --timeout=20s >/dev/null
    for _ in $(seq 200); do
        bound=$(tenant "$name" get pods -l app=web -o json | jq '[.items[] | select(.spec.nodeName)] | length')
        [ "$bound" != 2 ] || break
        sleep 0.1
    done
    for pod in $(tenant "$name" get pods -l app=web -o name); do
        operator --server "https://127.0.0.1:6443/clusters/$(operator get projects -o json | jq -r --arg name "$name" \
            '.items[] | select(.spec.displayName == $name).metadata.name')" patch "$pod" --subresource=status --type merge -p '{"status": {
            "phase": "Running", "hostIP": "127.0.0.1", "podIP": "10.244.0.9", "startTime": "'"$(date -u +%FT%TZ)"'",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "'"$(date -u +%FT%TZ)"'"}],
            "containerStatuses": [{"name": "web", "ready": true, "restartCount": 0, "image": "web:1", "imageID": "web:1",
                "started": true, "state": {"running": {"startedAt": "'"$(date -u +%FT%TZ)"'"}}}]}}' >/dev/null
    done
    tenant "$name" wait --for=condition=Available deployment/web --timeout=20s >/dev/null
    # One is being deleted, and waits for whoever set its finalizer.
    tenant "$name" delete configmap held --wait=false >/dev/null
    tenant "$name" create token robot --duration 24h >"$root/tenants/$name-robot.token"
done

# What today's validation refuses. The last of it ends a worker of the old controllers.
tenant acme create namespace odd >/dev/null
tenant acme wait --for=create serviceaccount/default -n odd --timeout=20s >/dev/null
tenant acme create --validate=false -f "$here/refused.yaml" >/dev/null
sleep 2

list() {
    "$@" get "$("$@" api-resources --verbs=list -o name | sort | grep -v -e '^events$' | paste -sd,)" -A -o json --show-managed-fields
}
list operator | jq '{system: .items}' >"$work/system.json"
for name in acme globex; do
    list tenant "$name" | jq --arg name "$name" '{($name): .items}' >"$work/$name.json"
done
# As a host that loses its power leaves it.
kill -9 "$server"
server=''
jq -c -s add "$work"/{system,acme,globex}.json | xz -9e >"$out/objects.json.xz"
rm -rf "$root/run" "$root/log"
tar -C /opt/hypernetes -S --sort=name --owner=0 --group=0 --numeric-owner -c data | xz -9e >"$out/data.tar.xz"
ls -l "$out"
