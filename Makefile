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
	@$(VENV)/python -m tests.lint

up: setup ## expose: pulumi up on STACK (default lab)
	@$(VENV)/python -m toolchain run $(STACK) up

preview: setup ## show what `make up` would change, and what becomes public
	@$(VENV)/python -m toolchain run $(STACK) preview --diff

destroy: setup ## close the funnel and take everything of ours off the server
	@$(VENV)/python -m toolchain run $(STACK) destroy

clean: ## remove what was built and the lab's leftovers
	@rm -rf .toolchain .venv .mypy_cache .ruff_cache .pytest_cache
