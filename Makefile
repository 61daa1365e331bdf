# Two commands: `make up` and `make test`. `make help` lists the others.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TOOLS := .tools
GUEST := $(TOOLS)/guest
BIN := target/release/hypernetes
# The installation that `make up` runs.
ROOT ?= data
BIND ?= 127.0.0.1:6443

.PHONY: help up demo down build test test-long test-unit test-e2e lint advisories fuzz kernel bench bench-api bench-image clean-data dependencies tools
# What is installed here is found before anything else.
export PATH := $(CURDIR)/$(TOOLS)/cargo/bin:$(PATH)

help: ## What there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

up: ## Install what is needed, build, start everything, and show two tenants
	@scripts/up.sh "$(ROOT)" "$(BIND)"

demo: ## Show again what the two tenants are
	@demo/demo.sh run

down: ## Stop everything; the data stays
	@scripts/down.sh "$(ROOT)"

build: dependencies ## The release binaries: target/release/{hypernetes,hyperd,hyperctl,hyperstart}
	@scripts/build.sh

kernel: ## Build a small kernel for guests into .tools/guest (without it they boot Debian's): a few minutes
	@scripts/guest-kernel.sh --build $(GUEST)

bench: build ## What a pod costs, on hyperd and on containerd with runc, side by side
	@scripts/bench-cri.sh

bench-api: tools ## What requests cost the API server, beside kube-apiserver and etcd where KUBE_APISERVER and ETCD name them
	cargo build --release -p hypernetes -p hypernetes-benches
	@scripts/bench-api.sh

bench-image: build ## What an image costs: to unpack and build, beside tar, and to read from in a VM
	@scripts/bench-image.sh

test: dependencies tools ## Lints and all tests, VMs and stock clients included
	@scripts/test.sh

test-long: build tools ## Floods, kills and properties for longer than `make test`: some hours
	@scripts/guest-kernel.sh $(GUEST)
	@scripts/test-long.sh

test-unit: tools ## The tests that need no running system
	cargo nextest run --workspace --exclude hypernetes-tests

test-e2e: build tools ## The tests of the whole system alone
	@scripts/guest-kernel.sh $(GUEST)
	@scripts/test-e2e.sh

# Crates whose modules use each other in one direction, and stay so.
LAYERED := $(patsubst %/src,%,$(wildcard control/*/src cloud/*/src)) node/csi node/kubelet node/netagent

# Clippy as the release is built: procedural macros and build scripts are made once.
lint: tools ## Format, clippy, dependencies: their licences and sources, and that something uses them; circles of modules
	cargo fmt --all --check
	cargo clippy $${HYPERNETES_CARGO_CONFIG:+--config "$$HYPERNETES_CARGO_CONFIG"} --release --workspace --all-targets -- -D warnings
	cargo deny --offline check licenses bans sources
	cargo shear --deny-warnings
	@python3 scripts/module-circles.py $(LAYERED)

advisories: tools ## Known vulnerabilities of dependencies, by the clone of RustSec's advisory-db at DB=
	@scripts/advisories.sh "$(DB)"

fuzz: ## Feed the parsers with bytes from anywhere, FUZZ_SECONDS (60) each
	@scripts/fuzz.sh

clean-data: down ## Remove the data directory
	@rm -rf "$(ROOT)" run && echo "removed $(ROOT) and run"

dependencies:
	@scripts/dependencies.sh

tools:
	@scripts/client-tools.sh $(TOOLS)
	@scripts/cargo-tools.sh
