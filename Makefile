# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The rest are their parts, and the daily `make up | preview | destroy`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

STACK ?= lab
KEEP ?=
ARGS ?=
DEVICE ?=
MINUTES ?= 10
ADDRESS ?=
PYTHON ?= python3
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest

export GOTOOLCHAIN := local
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The lab's stack keeps its state beside the lab and has a public passphrase: it protects nothing. Every other
# stack uses the backend that you are logged in to and the passphrase that you have set.
ifeq ($(STACK),lab)
export PULUMI_BACKEND_URL := file://$(CURDIR)/.lab-state
export PULUMI_CONFIG_PASSPHRASE_FILE := $(CURDIR)/stacks/lab.passphrase
endif

# pulumi COMMAND: on the stack, made on first use. The program itself checks the config and tells every problem at
# once; the engine's own check would stop at the first. STACK=lab boots the lab when it is down, and forgets what stood on the
# server that was thrown away.
define lab-with-its-state
$(VENV)/python -m lab status >/dev/null 2>&1 || { rm -rf .lab-state; $(VENV)/python -m lab up; }; mkdir -p .lab-state
endef

define pulumi
eval "$$($(VENV)/python -m toolchain env)"; \
$(if $(filter lab,$(STACK)),$(lab-with-its-state);) \
pulumi stack select --create $(STACK) >/dev/null; \
pulumi $(1) --stack $(STACK)
endef

.PHONY: bench clean demo destroy docs env fuzz handover help keystore lab-test lint nightly preview server setup test \
  unit up

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: .venv/ready ## prepare everything: packages, Python, pinned programs
	@$(VENV)/python -m toolchain setup

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv" >&2; \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null; }
	@$(PYTHON) -m venv .venv
	@echo "installing Python packages" >&2
	@$(VENV)/pip install --quiet --requirement requirements-dev.txt
	@touch $@

demo: setup ## run the main job on the lab: expose, visit, revoke, ban, take back
	@KEEP=$(KEEP) $(VENV)/python -m tests.lab.demo

test: setup lint ## lint and all three tiers of tests
	@$(PYTEST) tests

unit: .venv/ready ## the tests that need no root and take seconds
	@$(PYTEST) tests/unit

server: setup ## the tests with real Caddy, fail2ban and Nix
	@$(PYTEST) tests/server

lab-test: setup ## the tests on the whole lab
	@$(PYTEST) tests/lab

bench: setup ## ratios: the main job beside the same steps by hand, the edge beside plain Caddy, many devices
	@$(VENV)/python -m tests.bench.main_job
	@$(VENV)/python -m tests.bench.edge
	@$(VENV)/python -m tests.bench.devices

fuzz: setup ## random requests at the edge for five minutes
	@$(VENV)/python -m tests.server.fuzz --seconds 300

nightly: setup ## the tests that ask the outside world, and known faults of what Caddy is built from
	@$(PYTEST) tests -m nightly
	@GOBIN=$(CURDIR)/.toolchain/bin go install golang.org/x/vuln/cmd/govulncheck@v1.9.0
	@cd server/caddy && $(CURDIR)/.toolchain/bin/govulncheck ./...

lint: setup ## types, style, shell, Go, Caddyfile, Nix
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check --quiet .
	@$(VENV)/mypy --no-error-summary .
	@for script in server/scripts/*.sh; do \
	  case $$script in */lib.sh) shellcheck --shell=sh $$script ;; \
	  *) cat server/scripts/lib.sh $$script | shellcheck --shell=sh --exclude=SC2317 - ;; esac; done
	@unformatted=$$(gofmt -l lab server tests toolchain); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	@.toolchain/bin/caddy fmt --diff server/Caddyfile >/dev/null || { echo "caddy fmt: server/Caddyfile"; exit 1; }
	@find lab server -name '*.nix' -exec nix-instantiate --parse {} + >/dev/null
	@echo "lint: clean"

docs: .venv/ready ## make the generated parts anew: docs/surface.md and the Caddyfile's allow-list
	@$(VENV)/python -m components.surface_files

up: setup ## expose: pulumi up on STACK (default lab)
	@$(call pulumi,up --skip-config-validation $(ARGS))

preview: setup ## show what `make up` would change, and what becomes public
	@$(call pulumi,preview --diff --skip-config-validation $(ARGS))

destroy: setup ## close the funnel and take everything of ours off the server
	@$(call pulumi,destroy $(ARGS))

env: ## print what makes plain `pulumi` work: eval "$$(make -s env)"
	@$(VENV)/python -m toolchain env
	@$(if $(filter lab,$(STACK)),echo 'export PULUMI_BACKEND_URL="$(PULUMI_BACKEND_URL)"')
	@$(if $(filter lab,$(STACK)),echo 'export PULUMI_CONFIG_PASSPHRASE_FILE="$(PULUMI_CONFIG_PASSPHRASE_FILE)"')

keystore: setup ## look after keys and backups: make keystore STACK=home ARGS="list" (or check, export, ...)
	@$(VENV)/python -m pki stacks/keystore/$(STACK) $(ARGS)

handover: setup ## give a device its bundle, once, over the local network: DEVICE=phone STACK=home
	@test -n "$(DEVICE)" || { echo "Name the device: make handover DEVICE=phone STACK=home" >&2; exit 1; }
	@eval "$$($(VENV)/python -m toolchain env)"; \
	keystore=$$(pulumi config get keystore --stack $(STACK) 2>/dev/null || true); \
	pulumi config get keystorePassphrase --stack $(STACK) | $(VENV)/python -m handover \
	  --keystore "$${keystore:-stacks/keystore/$(STACK)}" --device "$(DEVICE)" --minutes $(MINUTES) \
	  $(if $(ADDRESS),--address $(ADDRESS))

clean: ## take the lab down and remove what was built
	@test ! -x $(VENV)/python || $(VENV)/python -m lab down
	@rm -rf .toolchain .venv .lab-state .lab-demo .lab-artifacts .mypy_cache .ruff_cache .pytest_cache
