# Two commands do everything on a fresh Linux machine: `make demo` and `make test`.
#
# The commands for owners, `make up | preview | destroy | handover | keystore | who | links | module`, need Python and Pulumi
# but nothing of the lab: any POSIX shell, GNU make 3.81 or newer, BSD or GNU programs, no root.

SHELL := sh
MAKEFLAGS += --no-print-directory

KEEP ?=
HOUSE ?=
ARGS ?=
DEVICE ?=
DIR ?=
FILE ?=
SEED ?=
STEPS ?=
MINUTES ?= 10
ADDRESS ?=
PORT ?=
ARCH ?= arm64
PYTHON ?= python3
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest

# An old Go downloads the one that go.mod requires; some distributions switch that off.
export GOTOOLCHAIN := auto
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# If there is only one stack, it need not be named. The lab's stack does not count: name it to use it.
STACKS := $(filter-out lab,$(sort $(patsubst stacks/Pulumi.%.yaml,%,$(wildcard stacks/Pulumi.*.yaml))))
ifeq ($(words $(STACKS)),1)
STACK ?= $(STACKS)
endif
STACK ?=

# The lab's stack keeps its state next to the lab and has a public passphrase, because it protects nothing. Every other
# stack uses the backend that you are logged in to and the passphrase that you have set.
ifeq ($(STACK),lab)
READY := setup
export PULUMI_BACKEND_URL := file://$(CURDIR)/.lab-state
export PULUMI_CONFIG_PASSPHRASE_FILE := $(CURDIR)/stacks/lab.passphrase
else
READY := .venv/ready
endif

# STACK=lab boots the lab if it is down, and forgets what was on the discarded server.
define lab-with-its-state
{ $(VENV)/python -m lab status >/dev/null 2>&1 || { rm -rf .lab-state; $(VENV)/python -m lab up; }; mkdir -p .lab-state; }
endef

# Puts pulumi and its plugins on PATH. A bare `eval "$(...)"` would continue if the command in it fails.
define pulumi-on-path
environment=$$($(VENV)/python -m toolchain env) && eval "$$environment"
endef

# Runs pulumi COMMAND; with `create`, it creates a stack that the backend does not know. The stack selected for plain `pulumi`
# stays selected. The program checks the config itself and reports every problem at once; the engine would stop at the first.
define pulumi
$(pulumi-on-path) && \
$(if $(filter lab,$(STACK)),$(lab-with-its-state) &&) \
$(if $(2),{ pulumi stack --show-name --stack $(STACK) >/dev/null 2>&1 </dev/null || \
  pulumi stack init --no-select $(STACK); } &&) \
pulumi $(1) --stack $(STACK)
endef

# --help only explains.
create := $(if $(filter -h --help,$(ARGS)),,create)

# What the server knows; Pulumi is asked for nothing but the password of sudo, where there is one.
define reported
$(pulumi-on-path) && $(VENV)/python -m components.remote.server_report $(1) --stack $(STACK) $(ARGS)
endef

.PHONY: a-device a-file a-folder a-stack bench clean demo destroy docs edge env faults fuzz handover help keystore lab-test links lint \
  lock module nightly nightly-check pictures preview programs server setup test unit up walk who

help: ## list the commands
	@awk -F ':.*## ' '/^# -----* / { gsub(/^# -* | -*$$/, ""); printf "\n%s\n", $$0 } \
	  /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# ---- for the owner of an exposure ------------------------------------------------------------------------------------

# `organization/name` is a valid stack name, too; its file has only the name.
a-stack:
	@if test -z "$(STACK)" && test -z "$(STACKS)"; then \
	  echo "There is no stack yet. Copy stacks/Pulumi.home.yaml.example to stacks/Pulumi.home.yaml and edit it." >&2; \
	elif test -z "$(STACK)"; then echo "There are several stacks. Name one with STACK=...: $(STACKS)" >&2; \
	elif test -f "stacks/Pulumi.$(notdir $(STACK)).yaml"; then exit 0; \
	else echo "stacks/Pulumi.$(notdir $(STACK)).yaml is missing. There are these stacks: $(STACKS)" >&2; \
	fi; exit 1

a-device:
	@test -n "$(DEVICE)" || { echo "Name the device: make handover DEVICE=phone" >&2; exit 1; }

a-file:
	@test -n "$(FILE)" || { echo "Name the file: make edge FILE=../nixos/edge" >&2; exit 1; }

a-folder:
	@test -n "$(DIR)" || { echo "Name the folder: make module DIR=../nixos/immich-exposure" >&2; exit 1; }

.venv/ready: requirements.txt policy/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(VENV)/python || $(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments. On Debian: sudo apt install python3-venv" >&2; exit 1; }
	@test -x $(VENV)/python || $(PYTHON) -m venv .venv
	@echo "installing Python packages (about a minute)" >&2
	@$(VENV)/python -m pip install --quiet --requirement requirements.txt
	@$(VENV)/python -m pip install --quiet --no-deps --requirement policy/requirements.txt
	@touch $@

up: a-stack $(READY) ## expose: pulumi up on STACK (may be omitted if there is only one)
	@$(call pulumi,up --skip-config-validation $(ARGS),$(create))

preview: a-stack $(READY) ## show what `pulumi up` would change, and what becomes public
	@$(call pulumi,preview --diff --skip-config-validation $(ARGS),$(create))

nightly-check: a-stack $(READY) ## fail if the server is not as it was proven, or not as the config says
	@$(call pulumi,preview --refresh --expect-no-changes --skip-config-validation $(ARGS))

destroy: a-stack $(READY) ## close the funnel and remove everything of ours from the server
	@$(call pulumi,destroy $(ARGS))

handover: a-device a-stack .venv/ready ## give a device its bundle, once, over the local network: DEVICE=phone PORT=8765 ADDRESS=192.168.1.5
	@$(pulumi-on-path) && \
	keystore=$$($(VENV)/python -m toolchain keystore $(STACK) --device "$(DEVICE)") || exit 1; \
	passphrase=$$(pulumi config get keystorePassphrase --stack $(STACK)) || { \
	  echo "The keystore's passphrase could not be read from the stack (see above). If Pulumi asks for a passphrase of its" \
	    "own, export PULUMI_CONFIG_PASSPHRASE with the one you gave pulumi stack init, not the keystore's." >&2; exit 1; }; \
	printf '%s\n' "$$passphrase" | $(VENV)/python -m handover \
	  --keystore "$$keystore" --device "$(DEVICE)" --minutes $(MINUTES) \
	  $(if $(ADDRESS),--address $(ADDRESS)) $(if $(PORT),--port $(PORT))

keystore: a-stack .venv/ready ## list the keys, or maintain them: make keystore ARGS=check (or export, import, passphrase)
	@keystore=$$($(VENV)/python -m toolchain keystore $(STACK)) && \
	$(VENV)/python -m pki "$$keystore" $(or $(ARGS),list)

who: a-stack .venv/ready ## show who opened which link, and which device came when (needs who: true): ARGS=--html >who.html
	@$(call reported,who)

links: a-stack .venv/ready ## show what your shared links allow, and until when (needs immichApiKey)
	@$(call reported,links)

module: a-folder .venv/ready ## write the NixOS module into your own repository: make module DIR=../nixos/immich-exposure
	@$(VENV)/python -m components.remote.module_files "$(DIR)"

edge: a-file .venv/ready ## compile the edge (needs Go) for your own repository: make edge FILE=../nixos/edge ARCH=arm64
	@$(VENV)/python -m toolchain edge $(ARCH) "$(FILE)"

env: .venv/ready ## print the environment for plain `pulumi`, also for the lab's stack: eval "$(make -s env)"
	@$(VENV)/python -m toolchain env
	@$(if $(filter lab,$(STACK)),echo 'export PULUMI_BACKEND_URL="$(PULUMI_BACKEND_URL)"')
	@$(if $(filter lab,$(STACK)),echo 'export PULUMI_CONFIG_PASSPHRASE_FILE="$(PULUMI_CONFIG_PASSPHRASE_FILE)"')

# ---- the lab, and for developers (Linux) -----------------------------------------------------------------------------

demo: setup ## run the main job in the lab: expose, visit, revoke, ban, destroy: HOUSE=book KEEP=1
	@KEEP=$(KEEP) $(if $(HOUSE),HOUSE=$(HOUSE)) $(VENV)/python -m tests.lab.demo

test: setup lint ## lint and all tiers of tests
	@$(VENV)/python -m tests.parallel all

lock: ## pin every Python package with the hashes of its files, for all platforms (needs uv)
	@$(call locked,requirements)
	@$(call locked,requirements-dev,-c requirements.txt)

# The two lines above the list say what it is.
define locked
{ sed '/^#/!d' $(1).txt | head -n 2; uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url --no-emit-find-links $(2) $(1).in; } >$(1).new && mv $(1).new $(1).txt
endef

setup: .venv/developer ## prepare the lab: system packages, Python packages, pinned programs
	@$(VENV)/python -m toolchain setup

# `make setup` may install packages; `make up` never does. Debian leaves ensurepip out of Python.
.venv/developer: requirements.txt requirements-dev.txt
	@test -x $(VENV)/python || $(PYTHON) -c 'import ensurepip' 2>/dev/null || ! command -v apt-get >/dev/null || { \
	  echo "installing python3-venv" >&2; apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null; }
	@$(MAKE) .venv/ready
	@$(VENV)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

unit: .venv/developer ## the rules, in seconds: no root, no shell, no server
	@$(PYTEST)

programs: .venv/developer ## the scripts under two shells and our commands, in minutes: no root
	@$(PYTEST) tests/programs

server: setup ## the tests with real Caddy, fail2ban and Nix, and those of the stand-ins
	@$(PYTEST) tests/server tests/standins

lab-test: setup ## the tests in the whole lab, several labs at once: ARGS="book test_renewal.py"
	@$(VENV)/python -m tests.parallel $(ARGS)

bench: setup ## benchmarks: main job against manual steps, edge against plain Caddy, floods, devices, homes
	@$(VENV)/python -m tests.bench.main_job
	@$(VENV)/python -m tests.bench.edge
	@$(VENV)/python -m tests.bench.floods --rounds 1
	@$(VENV)/python -m tests.bench.proxies
	@$(VENV)/python -m tests.bench.devices
	@$(VENV)/python -m lab bubble -- $(VENV)/python -m tests.bench.scale

faults: setup ## the whole fault matrix, several labs at once, into docs/faults.md: ARGS="power reboot"
	@$(VENV)/python -m tests.faults.matrix $(ARGS)

walk: setup ## random sequences of operations and faults in the lab: SEED=7 STEPS=20
	@$(VENV)/python -m tests.faults.walk $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

fuzz: setup ## random requests to the edge for five minutes
	@$(VENV)/python -m tests.server.fuzz --seconds 300

nightly: setup ## tests that need the internet, an hour of random walks, known vulnerabilities in dependencies
	@test -x .toolchain/moto/bin/moto_server || { $(VENV)/python -m venv .toolchain/moto && \
	  .toolchain/moto/bin/python -m pip install --quiet 'moto[server,s3]==5.2.5'; }
	@test -x .toolchain/bin/pulumi-language-yaml || (cd tests/server/yaml_host && \
	  go build -mod=mod -o $(CURDIR)/.toolchain/bin/ github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml)
	@$(PYTEST) tests -m nightly
	@$(VENV)/python -m tests.faults.walk --minutes 60
	@GOBIN=$(CURDIR)/.toolchain/bin go install golang.org/x/vuln/cmd/govulncheck@v1.9.0
	@cd server/caddy && $(CURDIR)/.toolchain/bin/govulncheck ./...
	@.ci/workflows

lint: .venv/developer ## types, style, shell, Go, Caddyfile, Nix
	@$(VENV)/python -m toolchain packages
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check --quiet .
	@$(VENV)/mypy --no-error-summary .
	@.ci/shellcheck .ci/* lab/houses/*/*.sh server/scripts/*.sh
	@unformatted=$$(gofmt -l lab server tests toolchain); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	@find flake.nix lab server -name '*.nix' -exec nix-instantiate --parse {} + >/dev/null
	@$(VENV)/python -m toolchain setup caddy
	@.toolchain/bin/caddy fmt --diff server/Caddyfile >/dev/null || { echo "caddy fmt: server/Caddyfile"; exit 1; }
	@cd server/caddy && CGO_ENABLED=0 go vet -trimpath ./...
	@echo "lint: clean"

docs: .venv/ready ## regenerate docs/surface.md
	@$(VENV)/python -m components.surface.files

pictures: setup ## regenerate the README's pictures from a run in the lab
	@$(VENV)/python -m lab bubble -- $(VENV)/python -m tests.lab.pictures
	@$(VENV)/python -m tests.lab.who_pictures

clean: ## take the lab down and remove what was built
	@test ! -x $(VENV)/python || $(VENV)/python -m lab down
	@rm -rf .toolchain .venv .lab-state .lab-demo .lab-artifacts .mypy_cache .ruff_cache .pytest_cache
