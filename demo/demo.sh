#!/usr/bin/env bash
# Two tenants, one manifest: makes them (`demo.sh up ROOT`) and shows from the running system what they are
# (`demo.sh run`). Every line that it prints as a result was read from a pod or from the API; a result that is not as
# it should be ends it with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
hypernetes=target/release/hypernetes
tenants=(acme globex)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}
k() {
    local tenant=$1
    shift
    .tools/bin/kubectl --kubeconfig "run/$tenant.kubeconfig" "$@"
}

# How long anything may take, on a busy machine.
patience=300s
# eventually WHAT COMMAND…: until the command succeeds.
eventually() {
    local what=$1 deadline=$((SECONDS + ${patience%s}))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "after $patience still not: $what"
        sleep 0.2
    done
}

make_tenants() {
    local root=$1 tenant
    (umask 077 && mkdir -p run)
    install -m 0600 "$root/server/operator.kubeconfig" run/operator.kubeconfig
    install -m 0600 "$root/server/admin.openrc" run/admin.openrc
    # Outside the data directory: it is made again when it is missing, and needs no running system.
    demo/build-image.sh .tools/demo-web.tar
    "$hypernetes" image import --root "$root" .tools/demo-web.tar --name demo/web:1
    for tenant in "${tenants[@]}"; do
        "$hypernetes" tenant create --root "$root" "$tenant" --directory run
    done
}

apply() {
    local tenant
    for tenant in "${tenants[@]}"; do
        echo "  $tenant: kubectl apply -f demo/manifest.yaml"
        k "$tenant" apply -f demo/manifest.yaml | sed 's/^/    /'
    done
    for tenant in "${tenants[@]}"; do
        k "$tenant" rollout status deployment/web --timeout=$patience | tail -n 1 | sed "s/^/  $tenant: /"
        k "$tenant" wait --for=condition=Ready pod/notebook --timeout=$patience | sed "s/^/  $tenant: /"
    done
}

addresses() { k "$1" get pods -l app=web -o jsonpath='{range .items[*]}{.status.podIP}{"\n"}{end}' | sort; }
names() { k "$1" get pods -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}'; }

show() {
    local tenant pod ids address answer

    say "The same manifest, the same addresses, twice"
    for tenant in "${tenants[@]}"; do
        echo "  $tenant:"
        k "$tenant" get pods -o wide | sed 's/^/    /'
    done
    all() { k "$1" get pods -o jsonpath='{range .items[*]}{.status.podIP}{"\n"}{end}' | sort; }
    [ "$(all acme)" = "$(all globex)" ] || fail "the tenants' pods have different addresses"

    say "Each pod is a virtual machine: a kernel's boot id of its own"
    ids="host $(cat /proc/sys/kernel/random/boot_id)"$'\n'
    for tenant in "${tenants[@]}"; do
        for pod in $(names "$tenant"); do
            ids+="$tenant/$pod $(k "$tenant" exec "$pod" -- cat /proc/sys/kernel/random/boot_id)"$'\n'
        done
    done
    printf '%s' "$ids" | awk '{printf "  %-32s %s\n", $1, $2}'
    [ -z "$(printf '%s' "$ids" | awk '{print $2}' | sort | uniq -d)" ] || fail "two of them share a kernel"

    say "acme's pods answer acme; the same addresses in globex are other pods"
    for tenant in "${tenants[@]}"; do
        for address in $(addresses "$tenant"); do
            answer=$(k "$tenant" exec notebook -- timeout 60 wget -q -O - "http://$address:8080/")
            echo "  from $tenant, http://$address:8080/ says: $answer"
            grep -qxF "${answer#this is }" <<<"$(names "$tenant")" || fail "$tenant was answered by what is not its own"
        done
    done

    say "What only globex has, acme does not reach"
    k globex delete pod only-globex --ignore-not-found --wait >/dev/null
    k globex run only-globex --image=demo/web:1 --restart=Never -- sh -c 'mkdir /tmp/w; echo globex only >/tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w' >/dev/null
    k globex wait --for=condition=Ready pod/only-globex --timeout=$patience >/dev/null
    address=$(k globex get pod only-globex -o jsonpath='{.status.podIP}')
    fetched() { answer=$(k globex exec notebook -- timeout 3 wget -q -O - "http://$address:8080/" 2>/dev/null); }
    eventually "globex reaches its own pod at $address" fetched
    [ "$answer" = "globex only" ] || fail "globex does not reach its own pod at $address"
    echo "  from globex, http://$address:8080/ says: $answer"
    if answer=$(k acme exec notebook -- timeout 3 wget -q -O - "http://$address:8080/" 2>&1); then
        fail "acme reached globex's pod: $answer"
    fi
    echo "  from acme,   http://$address:8080/ says nothing: $(printf '%s' "$answer" | head -n 1)"
    k globex delete pod only-globex --grace-period=1 --wait >/dev/null

    say "Configuration, secrets and environment arrive"
    pod=$(k acme get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
    answer=$(k acme exec "$pod" -- sh -c 'echo "$GREETING; file: $(cat /etc/web/greeting); secret of ${#PASSWORD} letters, file of $(wc -c </etc/secret/password)"')
    echo "  $answer"
    [ "$answer" = "hello from the config map; file: hello from the config map; secret of 22 letters, file of 22" ] || fail "that is not what the manifest says"

    say "A volume outlives its pod"
    local before after
    # It runs, and so is Ready, before its shell has written.
    written() { k acme exec notebook -- sh -c 'grep -qxF "written by $(cat /proc/sys/kernel/random/boot_id)" /notes/log'; }
    eventually "the notebook has written" written
    before=$(k acme exec notebook -- cat /notes/log)
    printf '%s\n' "$before" | sed 's/^/  before: /'
    k acme delete pod notebook --wait >/dev/null
    k acme apply -f demo/manifest.yaml >/dev/null
    k acme wait --for=condition=Ready pod/notebook --timeout=$patience >/dev/null
    eventually "the new notebook has written" written
    after=$(k acme exec notebook -- cat /notes/log)
    printf '%s\n' "$after" | sed 's/^/  after:  /'
    [ "$(printf '%s\n' "$after" | head -n "$(printf '%s\n' "$before" | wc -l)")" = "$before" ] || fail "the volume lost what was written"
    [ "$(printf '%s\n' "$after" | wc -l)" = $(($(printf '%s\n' "$before" | wc -l) + 1)) ] || fail "the new pod did not write to the volume"
}

summary() {
    cat <<END

Up. Two tenants share this machine, and neither can tell. Next:

  export KUBECONFIG=\$PWD/run/acme.kubeconfig PATH=\$PWD/.tools/bin:\$PATH
  kubectl get pods -o wide                   # acme's own cluster
  kubectl exec -it notebook -- sh            # a shell in a VM
  KUBECONFIG=run/operator.kubeconfig kubectl get projects,nodes   # what the operator sees
  (. run/acme.openrc; .tools/venv/bin/openstack volume list)      # the same volume, through Cinder

  make demo        show all of the above again
  make down        stop everything (the data stays)
  make test        run the tests
END
}

case "${1:-run}" in
up)
    make_tenants "$2"
    apply
    show
    summary
    ;;
run)
    [ -f run/acme.kubeconfig ] || fail "nothing is up: run make up first"
    show
    ;;
*) fail "usage: demo.sh up ROOT | run" ;;
esac
