# Every target does the set-up it needs in .venv, once; `make` alone lists the targets.
# Written for GNU make 3.81 and newer, and for any POSIX shell.
# PYTHON=/path/to/python3 builds .venv with that Python; SETUP_SPACE_GIB=number asks for that much free disk.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo bundle test test-slow soak ray test-ray stores test-stores lint format bench lock audit sbom matrix clean distclean label-setup label test-label label-lock

# Settings of the caller's own Python that would leak into .venv.
unexport PYTHONHOME
unexport PYTHONPATH
unexport MPLBACKEND

PY := .venv/bin/python
PYTEST_ARGS ?=
WORKERS ?= 2
STUDIES ?=
WEIGHTS ?=
LABEL_ARGS ?=
LABEL_PYTHON ?=
BUNDLE_ARGS ?=
LOCK_ARGS ?=
AUDIT_ARGS ?=
CELLS ?=

help: ## List the targets
	@echo 'make <target>; each sets up .venv first where it needs it:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s  %s\n", $$1, $$2 }' Makefile

setup: ## Build .venv from the lock files (does nothing when it is there)
	@tools/setup.sh

demo: setup ## Train, score and run a small detector on synthetic CT; results in runs/demo
	cd mp3d_bundle && ../$(PY) -m scripts.demo --output ../runs/demo

bundle: setup ## Pack the bundle with its weights as dist/mp3d_bundle_vX.Y.Z.zip (BUNDLE_ARGS='--weights FILE')
	$(PY) tools/make_bundle.py $(BUNDLE_ARGS)

test: lint ## Lint, then run the tests in two processes (WORKERS=number for more; PYTEST_ARGS=FILE in one)
ifeq ($(strip $(PYTEST_ARGS)),)
	@# The tests of a file share what its fixtures made, so a process takes whole files.
	$(PY) -m pytest -q -m 'not slow' -n $(WORKERS) --dist loadfile --ignore tests/engines
	@# In processes of their own: a crash in an engine's library takes no other test with it.
	$(PY) -m pytest -q -m 'not slow' -n $(WORKERS) --dist loadfile tests/engines
else
	$(PY) -m pytest -q -m 'not slow' $(PYTEST_ARGS)
endif

test-slow: setup ## Run the tests marked slow
	$(PY) -m pytest -q -m slow $(PYTEST_ARGS)

soak: setup ## Read thousands of files damaged at random (MP3D_FUZZ=number), then watch the memory of long runs
	MP3D_FUZZ=$${MP3D_FUZZ:-10000} $(PY) -m pytest -q tests/test_fuzzed_readers.py tests/test_hostile_labels.py $(PYTEST_ARGS)
	$(PY) -m pytest -q -s -m slow tests/test_long_runs.py $(PYTEST_ARGS)

ray: setup ## Add Ray to .venv, for `python -m scripts.batch`
	$(PY) -m uv pip install --require-hashes --quiet --python $(PY) -r requirements-ray.lock

test-ray: ray ## Test `python -m scripts.batch` with a Ray cluster of two nodes on this machine
	$(PY) -m pytest -q tests/tools/batch/test_run_batch.py $(PYTEST_ARGS)

stores: setup ## Add s3fs to .venv, for scans and results in S3, and a server to test it with
	$(PY) -m uv pip install --require-hashes --quiet --python $(PY) -r requirements-s3.lock

test-stores: stores ## Test scans and results in S3 with a server on this machine
	$(PY) -m pytest -q tests/storage/test_object_stores.py tests/data/scans/test_remote_scans.py \
	    tests/workflows/delivery/test_remote_results.py tests/test_object_store_commands.py $(PYTEST_ARGS)

lint: setup ## Check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

format: setup ## Rewrite the sources in the project's style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: setup ## Measure: each figure as a ratio to its peer in the same run
	$(PY) -m benchmarks

lock: setup ## Write requirements.lock anew from pyproject.toml (LOCK_ARGS=--upgrade for newer versions)
	$(PY) -m uv pip compile pyproject.toml --group dev --universal --python-version 3.10 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --quiet $(LOCK_ARGS) -o requirements.lock
	$(PY) -m uv pip compile pyproject.toml --extra ray --constraint requirements.lock --universal \
	    --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet $(LOCK_ARGS) \
	    -o requirements-ray.lock
	@# botocore holds python-dateutil back.
	@awk '/^[^ ]/ { keep = !/^python-dateutil==/ } keep' requirements.lock > .venv/s3-constraints.txt
	$(PY) -m uv pip compile pyproject.toml --extra s3 --group s3-server --constraint .venv/s3-constraints.txt \
	    --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet \
	    $(LOCK_ARGS) -o requirements-s3.lock
	$(PY) -m uv pip compile --group audit --universal --python-version 3.10 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --quiet $(LOCK_ARGS) -o requirements-audit.lock

audit: .venv-audit/complete ## Look for known vulnerabilities and foreign hashes in the lock files (AUDIT_ARGS='--advisories FILE': offline)
	.venv-audit/bin/python tools/audit_locks.py $(AUDIT_ARGS)

sbom: .venv-audit/complete ## List all packages as CycloneDX in dist: what is installed (licences), what is locked (hashes)
	mkdir -p dist
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    -o dist/installed.cdx.json $(PY)
	.venv-audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	    -o dist/locked.cdx.json requirements.lock

matrix: setup ## Test with the oldest and newest versions of the dependencies (CELLS='3.11-lowest'; GBs, hours)
	$(PY) tools/run_matrix.py $(CELLS)

# Not in .venv: what audits is no part of what is audited.
.venv-audit/complete: requirements-audit.lock | setup
	$(PY) -m uv venv --quiet --clear .venv-audit
	$(PY) -m uv pip sync --require-hashes --quiet --python .venv-audit/bin/python requirements-audit.lock
	@touch .venv-audit/complete

label-setup: ## Build .venv-label, the environment of MONAI Label (Python 3.10 or 3.11; LABEL_PYTHON=... names one)
	@PYTHON='$(LABEL_PYTHON)' tools/label_setup.sh

label: label-setup ## Serve lesion detection to 3D Slicer: make label STUDIES=DIR (WEIGHTS=FILE LABEL_ARGS='--port 8001')
	@.venv-label/bin/python integrations/monai_label/serve.py --studies '$(STUDIES)' --weights '$(WEIGHTS)' $(LABEL_ARGS)

test-label: setup label-setup ## Test the MONAI Label app with a real server
	MP3D_LABEL_SERVER=1 $(PY) -m pytest -q tests/integrations $(PYTEST_ARGS)

label-lock: setup ## Write the lock file of .venv-label anew
	cd integrations/monai_label && ../../$(PY) -m uv pip compile requirements.in --override overrides.in \
	    --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet \
	    $(LOCK_ARGS) -o requirements.lock

clean: ## Remove caches and the demo's results
	rm -rf runs/demo .pytest_cache .ruff_cache .hypothesis
	find . -name '.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## Remove .venv, .venv-audit and .venv-label as well
	rm -rf .venv .venv-audit .venv-label
