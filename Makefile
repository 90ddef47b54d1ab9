# What a developer types. `make help` lists it. Everything lives in .venv and demo_out; nothing is installed elsewhere.

VENV ?= .venv
CORE_VENV ?= .venv-core
SHELL := /bin/bash
# The first Python that is new enough and can make environments; say `make PYTHON=... setup` for another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

BIN := $(VENV)/bin
READY := $(VENV)/ready
CORE_READY := $(CORE_VENV)/ready
PIP := -m pip --disable-pip-version-check --quiet install
# Tests run in so many processes of one thread each; a process that is done takes tests from another's end. All
# must list the same tests in the same order, also where a name is made from a set: hence the seed.
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
export PYTHONHASHSEED := 0
LOWEST_VENV ?= .venv-lowest
NEWER_VENV ?= .venv-newer
# A newer Python than 3.11, where there is one.
NEWER ?= $(shell for p in python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python $(HOME)/.pyenv/versions/3.12.*/bin/python); do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && echo $$p && break; done)
# The rooms that work without PyTorch; their tests may use it only behind pytest.importorskip. A path that is
# not there fails.
CORE_ROOMS := $(addprefix tests/,core io data merge metrics inference cli)
CORE_TESTS := tests/test_core_without_torch.py tests/test_layout.py tests/test_docs.py $(CORE_ROOMS) \
	$(addprefix tests/golden/,test_merge.py test_preprocess.py test_pq.py)

.PHONY: help setup demo test test-slow fuzz faults soak audit test-core test-lowest test-newer test-web web wheel golden lint format bench docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with everything for training and developing

# torch goes first, by its pin, so that nothing else pulls in another build of it.
$(READY): pyproject.toml constraints.txt Makefile
	@if [ -z "$(PYTHON)" ]; then echo "make: no Python 3.11 or newer with venv found; install one or say PYTHON=..." >&2; exit 2; fi
	@if [ ! -x $(BIN)/python ]; then echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); fi
	@echo "installing torch, then maskconver with its extras (a few minutes the first time)"
	@$(BIN)/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[train,ap,scale,tiff,video,export,serve,dev]'
	@touch $@

demo: $(READY)  ## segment generated images with both bundled models; prints where they are
	@$(BIN)/maskconver data synth demo_out/cells --style cells --count 4 --size 256 320 --seed 7 --split demo --overwrite
	@$(BIN)/maskconver predict nuclei demo_out/cells/images/demo --out demo_out/nuclei --overlay
	@$(BIN)/maskconver data synth demo_out/houses --style houses --count 2 --size 512 640 --seed 7 --split demo --overwrite
	@$(BIN)/maskconver predict facade demo_out/houses/images/demo --out demo_out/facade --overlay
	@echo "look at: $(CURDIR)/demo_out/nuclei/overlays/cells_00001.png"
	@echo "    and: $(CURDIR)/demo_out/facade/overlays/houses_00001.png"
	@echo "try your own images on a page: $(BIN)/maskconver serve nuclei"

test: $(READY)  ## the tests, without the long ones (at most 12 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not slow and not web"

test-slow: $(READY)  ## the long tests (at most 30 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m slow || [ $$? -eq 5 ]

# One version, by its checksum; see serve/site.py. Wheels built afterwards hold it.
web: $(READY)  ## fetch onnxruntime-web, for pages that need no server (33 MB from npm)
	@$(BIN)/python -c 'from maskconver.serve.site import fetch_runtime; fetch_runtime()'

fuzz: $(READY)  ## 20,000 spoiled files (MASKCONVER_FUZZ_SEED=1 for others)
	@MASKCONVER_FUZZ_CASES=$${MASKCONVER_FUZZ_CASES:-20000} $(BIN)/python -m pytest tests/fuzz

faults: $(READY)  ## 50 kills at random moments, full disks, too little memory
	@MASKCONVER_KILLS=$${MASKCONVER_KILLS:-50} $(BIN)/python -m pytest tests/faults tests/training/test_determinism.py tests/io/test_lock.py

soak: $(READY)  ## hours of work in one process: memory, files and threads stay flat (75 minutes)
	@$(BIN)/python benchmarks/soak.py

# Needs the network.
audit: $(READY)  ## known vulnerabilities of all that is installed
	@$(BIN)/python $(PIP) pip-audit && $(BIN)/python -m pip_audit --local --skip-editable

test-web: $(READY)  ## the pages in a real browser (needs Chromium; skipped where there is none)
	@$(BIN)/python -m pytest -m web -rs

golden: $(READY)  ## the numbers of the reference implementations
	@$(BIN)/python -m pytest tests/golden

# LiteRT files are tested with one that the other environment makes, where it is there.
test-core: $(CORE_READY)  ## the core's tests, in an environment without PyTorch
	@! $(CORE_VENV)/bin/python -c 'import torch' 2>/dev/null || { echo "$(CORE_VENV) has torch; remove it" >&2; exit 2; }
	@rm -f $(CORE_VENV)/nuclei.tflite
	@[ ! -x $(BIN)/maskconver ] || $(BIN)/maskconver export nuclei --to litert --size 128 160 --out $(CORE_VENV)/nuclei.tflite
	@MASKCONVER_TFLITE=$$(ls $(CORE_VENV)/nuclei.tflite 2>/dev/null) \
		$(CORE_VENV)/bin/python $(PYTEST) -m "not slow and not web" -p no:cacheprovider $(CORE_TESTS)

# Only what the lowest versions may break: no files of other runtimes, no documentation.
test-lowest:  ## the core's tests with the lowest versions that are allowed
	@if [ ! -x $(LOWEST_VENV)/bin/python ]; then $(PYTHON) -m venv $(LOWEST_VENV); fi
	@rm -rf build
	@$(LOWEST_VENV)/bin/python $(PIP) -c constraints-lowest.txt pytest pytest-xdist hypothesis '.[onnx]'
	@$(LOWEST_VENV)/bin/python $(PIP) --force-reinstall --no-deps .
	@$(LOWEST_VENV)/bin/python $(PYTEST) -m "not slow and not web" -p no:cacheprovider tests/test_core_without_torch.py $(CORE_ROOMS)

test-newer:  ## the core's tests with Python 3.13 or 3.12, where there is one
	@if [ -z "$(NEWER)" ]; then echo "no Python 3.12 or 3.13 found: left out"; exit 0; fi; \
	set -e; rm -rf build; [ -x $(NEWER_VENV)/bin/python ] || $(NEWER) -m venv $(NEWER_VENV); \
	$(NEWER_VENV)/bin/python $(PIP) pytest pytest-xdist hypothesis '.[onnx]'; \
	$(NEWER_VENV)/bin/python $(PIP) --force-reinstall --no-deps .; \
	$(NEWER_VENV)/bin/python $(PYTEST) -m "not slow" -p no:cacheprovider tests/test_core_without_torch.py $(CORE_ROOMS)

wheel: $(READY)  ## build the package and look at what is in it
	@rm -rf build
	@$(BIN)/python -m pip --disable-pip-version-check --quiet wheel --no-deps --wheel-dir build/wheel .
	@MASKCONVER_WHEEL=$$(ls build/wheel/*.whl) $(BIN)/python -m pytest tests/test_wheel.py

# A plain install, not an editable one: this also tests that the package carries all its files.
$(CORE_READY): pyproject.toml $(shell find src/maskconver -type f -not -path '*/__pycache__/*')
	@if [ ! -x $(CORE_VENV)/bin/python ]; then $(PYTHON) -m venv $(CORE_VENV); fi
	@rm -rf build
	@$(CORE_VENV)/bin/python $(PIP) pytest pytest-xdist hypothesis
	@$(CORE_VENV)/bin/python $(PIP) --upgrade --force-reinstall --no-deps .
	@$(CORE_VENV)/bin/python $(PIP) '.[onnx,litert]'
	@touch $@

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# A script that fails, for want of data or of a trained model, does not stop the others; all such are named at the end.
bench: $(READY)  ## run every script of benchmarks/ (hours)
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[bench]'
	@failed=; for script in $(filter-out benchmarks/harness.py benchmarks/soak.py,$(sort $(wildcard benchmarks/*.py))); do \
		echo "== $$script"; $(BIN)/python $$script || failed="$$failed $$script"; \
	done; [ -z "$$failed" ] || { echo "make: not finished:$$failed" >&2; exit 1; }

# Strict: a warning or a link that leads nowhere fails. The command-line reference is written from the parsers first.
docs: $(READY)  ## build the documentation into site/
	@$(BIN)/python $(PIP) -e '.[docs]'
	@$(BIN)/python docs/reference/make_commands.py docs/reference/commands.md
	@$(BIN)/zensical build --clean --strict

clean:  ## remove the environments and everything built
	rm -rf $(VENV) $(CORE_VENV) $(LOWEST_VENV) $(NEWER_VENV) build site demo_out .mypy_cache .ruff_cache .pytest_cache
