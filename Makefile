# One page of what can be done here; `make` alone lists it. Every target may be repeated.
SHELL := /bin/bash
.DEFAULT_GOAL := help
OSMO := .venv/bin/osmo
PY := .venv/bin/python

help: ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## Create .venv from the locked dependencies
	@bash scripts/setup.sh

run: setup ## Start the platform, run the quickstart workflow, show its result
	@bash scripts/quickstart.sh

stop: ## Stop the platform that `make run` started
	@$(OSMO) down

test: setup ## Run the tests that need no root and no servers
	@bash scripts/test.sh

test-servers: setup ## Install and start real servers (PostgreSQL, podman, azurite, Kubernetes, netns hosts), run their tests
	@bash scripts/test-servers.sh

check: setup ## Lint, types, import contract
	@.venv/bin/ruff format --check -q . && .venv/bin/ruff check -q .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo 2>/dev/null || .venv/bin/lint-imports

kube-tools: ## Build a real Kubernetes for tests and our launcher (Go); KUBE_BIN or KUBECONFIG takes a ready one
	@bash tests/servers/kube/build.sh >/dev/null

hold: ## Build the program that keeps failed containers up, for both kinds of machines (gcc, gcc-aarch64-linux-gnu)
	@for one in x86_64:gcc aarch64:aarch64-linux-gnu-gcc; do \
	  $${one#*:} -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pic -no-pie \
	    -fno-builtin -Wall -Werror -Wl,--build-id=none,-s,-z,noseparate-code,-z,noexecstack \
	    -o osmo_ray/runtime/hold/hold.$${one%:*} osmo_ray/runtime/hold/hold.c; done

bench: setup ## Measure, beside references in the same run
	@$(PY) -m bench

lock: ## Resolve the dependencies anew into requirements.lock
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --group dev pyproject.toml -o requirements.lock

wheel: setup ## Build the wheel into dist/
	@$(PY) -m hatchling build -t wheel

clean: ## Remove what was built here (not the platform's state in OSMO_HOME)
	@rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: help setup run stop test test-servers kube-tools hold check bench lock wheel clean
