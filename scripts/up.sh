#!/usr/bin/env bash
# make up: from a fresh machine to a running server and runtime. What is in place already takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$1 bind=$2
if [ "$(id -u)" != 0 ]; then
    echo "make up needs root, for network namespaces and the VMs' users: sudo make up" >&2
    exit 1
fi
step() { printf '\n[%s] %s\n' "$(date +%H:%M:%S)" "$*"; }

step "1/6 packages"
scripts/dependencies.sh
step "2/6 build (release)"
scripts/build.sh
step "3/6 stock clients"
scripts/client-tools.sh .tools
step "4/6 guest kernel"
scripts/guest-kernel.sh .tools/guest
step "5/6 start"
target/release/hypernetes up --root "$root" --bind "$bind" --guest .tools/guest --detach
step "6/6 an image, from Debian's busybox"
demo/build-image.sh .tools/demo-web.tar
target/release/hypernetes image import --root "$root" .tools/demo-web.tar --name demo/web:1
(umask 077 && mkdir -p run)
install -m 0600 "$root/server/operator.kubeconfig" run/operator.kubeconfig
install -m 0600 "$root/server/admin.openrc" run/admin.openrc
cat <<END

Up. Next:

  export KUBECONFIG=\$PWD/run/operator.kubeconfig PATH=\$PWD/.tools/bin:\$PATH
  kubectl api-resources                         # the operator's logical cluster
  (. run/admin.openrc; .tools/venv/bin/openstack project create acme)
  kubectl get --raw /clusters/acme/api/v1/namespaces    # a logical cluster of its own
  make down                                     # stop everything (the data stays)
  make test                                     # run the tests
END
