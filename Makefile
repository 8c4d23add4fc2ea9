# make install   create the environment, in .venv (or VENV=…)
# make demo      run server, dashboard and a DeepSpeed worker on this machine
# make test      run every check: format, lint, types, tests
# make protos    generate the stubs, after a change of protos/

SHELL := bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Its name changes with the required packages and with the checkout's path, so that either reinstalls.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml <(pwd) | sha256sum | cut -c1-16)

.PHONY: install demo test check protos system
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OPTIMA needs Python 3.11 or newer; name one with PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[server,worker,tracking,tasks,dev,bench]'
	rm -f $(VENV)/.installed-*
	touch $@

demo: install
	$(BIN)/optima demo

# Programs that the tests need: a second, independent Redis; a browser; a compiler for DeepSpeed's own ops.
system:
	@deploy/install-test-tools.sh

# The cache is in the environment, as mypy takes most of a minute to analyse torch.
check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPY_NUM_WORKERS=auto $(BIN)/mypy --cache-dir $(VENV)/.mypy_cache

# Tests that train wait too, for stores and for ranks that import torch: three at a time leave no core of two idle. The
# others mostly wait. Tests of timing (marked alone) run by themselves. Files keep their order: xdist would sort the files
# with few tests last, which take the longest, and a core would idle.
TRAINING := tests/integration tests/benchmarks tests/worker
WAITING := tests/faults $(filter-out $(TRAINING) tests/faults tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))
PYTEST := $(BIN)/python -m pytest -m "not alone and not slow" --dist loadfile --no-loadscope-reorder

test: install system check
	$(PYTEST) -n 3 $(TRAINING)
	$(PYTEST) -n 4 $(WAITING) tests/test_*.py
	$(BIN)/python -m pytest -m alone tests/browser

protos: install
	$(BIN)/python -m grpc_tools.protoc -I . --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	    --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	    --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. protos/optima/v1/bandit.proto
