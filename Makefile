# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The rest are their parts, and the daily `make up | preview | destroy`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

STACK ?= lab
KEEP ?=
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

.PHONY: help setup demo test lint unit server lab-test up preview destroy bench clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: .venv/ready ## prepare everything: packages, Python, pinned programs
	@$(VENV)/python -m toolchain setup

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -m toolchain.python_check
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

lint: setup ## types, style, shell, Go, Caddyfile, Nix
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check --quiet .
	@$(VENV)/mypy --no-error-summary .
	@for script in server/scripts/*.sh; do \
	  case $$script in */lib.sh) shellcheck --shell=sh $$script ;; \
	  *) cat server/scripts/lib.sh $$script | shellcheck --shell=sh --exclude=SC2317 - ;; esac; done
	@unformatted=$$(gofmt -l lab server toolchain); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	@.toolchain/bin/caddy fmt --diff server/Caddyfile >/dev/null || { echo "caddy fmt: server/Caddyfile"; exit 1; }
	@find lab server -name '*.nix' -exec nix-instantiate --parse {} + >/dev/null
	@echo "lint: clean"

up: setup ## expose: pulumi up on STACK (default lab)
	@$(PULUMI) up

preview: setup ## show what `make up` would change, and what becomes public
	@$(PULUMI) preview --diff

destroy: setup ## close the funnel and take everything of ours off the server
	@$(PULUMI) destroy

env: ## print what makes plain `pulumi` work: eval "$$(make -s env)"
	@$(PULUMI_ENV)

clean: ## remove what was built and the lab's leftovers
	@rm -rf .toolchain .venv .mypy_cache .ruff_cache .pytest_cache
