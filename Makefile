# Every target makes the virtual environment that it needs: python 3.11+, make and git are enough.
# An environment is made again when what it is made from has changed, and only then.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Tests start hundreds of programs; without compiled files each of them would compile the library.
unexport PYTHONDONTWRITEBYTECODE

# The first of these that is new enough and can make virtual environments; `PYTHON=...` overrides.
CANDIDATES := python3 python python3.14 python3.13 python3.12 python3.11
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for python in $(CANDIDATES); do \
	$$python -c '$(USABLE)' >/dev/null 2>&1 && echo $$python && break; done)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

TEST := .venv/test-$(VERSION)
LOWEST := .venv/lowest-$(VERSION)
CHECK := .venv/check-$(VERSION)
DOCS := .venv/docs-$(VERSION)
BENCH := .venv/bench-$(VERSION)
DEMO := .venv/demo-$(VERSION)
MUTATION := .venv/mutation-$(VERSION)
DEV := .venv/dev-$(VERSION)
MANIFESTS := .venv/manifests-$(VERSION)

# How many processes share the tests: one more than small machines have cores, as tests wait for
# servers. 0 runs them in one, as debuggers need it.
JOBS := 3

.PHONY: help demo test soak proof test-lowest coverage mutation check manifests docs bench dev clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO)/.ready ## Break a real service for a minute and watch it stay up (SERVE=1 keeps it running)
	@PYTHONPATH=. $(DEMO)/bin/python examples/storefront/demo.py $(if $(SERVE),--serve) $(ARGS)

test: $(TEST)/.ready ## Run the tests (ARGS="-k circuit" is handed to pytest)
	@$(TEST)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

proof: $(TEST)/.ready ## Run what takes minutes: killed processes, generated tests at length, installed packages
	@$(TEST)/bin/python -m pytest -n $(JOBS) --dist worksteal -m proof -o faulthandler_timeout=1500 $(ARGS)

soak: $(TEST)/.ready ## Run everything with faults for MINUTES=10; fails if anything grows or is miscounted
	@PYTHONPATH=. $(TEST)/bin/python -m tests.soak.soak --minutes $(or $(MINUTES),10)

test-lowest: $(LOWEST)/.ready ## Run the tests with the oldest versions of dependencies that pyproject.toml allows
	@$(LOWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

coverage: $(TEST)/.ready ## Run the tests and show which lines and branches they miss
	@$(TEST)/bin/coverage erase
	@$(TEST)/bin/coverage run -m pytest -n $(JOBS) --dist worksteal $(ARGS)
	@$(TEST)/bin/coverage combine --quiet
	@$(TEST)/bin/coverage report

mutation: $(MUTATION)/.ready ## Change a line at a time; a test must fail each time (ARGS="circuit ramp" names modules)
	@$(MUTATION)/bin/python -m tests.mutation $(ARGS)

check: $(CHECK)/.ready ## Lint, check the format, and check types with mypy and pyright
	@$(CHECK)/bin/ruff check .
	@$(CHECK)/bin/ruff format --check .
	@$(CHECK)/bin/mypy
	@$(CHECK)/bin/pyright --pythonpath $(CHECK)/bin/python --pythonversion $(VERSION)

manifests: $(MANIFESTS)/.ready ## Lint the manifests, the Dockerfile and the compose file of the storefront
	@$(MANIFESTS)/bin/yamllint --strict examples/storefront/deploy
	@$(MANIFESTS)/bin/checkov --config-file .checkov.yaml

docs: $(DOCS)/.ready ## Build the documentation into docs/_build/html; a warning is an error
	@$(DOCS)/bin/sphinx-build -W --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(BENCH)/.ready ## Measure what a guarded call costs, next to other libraries (QUICK=1 for a first idea)
	@PYTHONPATH=. $(BENCH)/bin/python benchmarks/run.py $(if $(QUICK),--quick) $(ARGS)
	@PYTHONPATH=. $(BENCH)/bin/python -m benchmarks.queues
	@PYTHONPATH=. $(BENCH)/bin/python -m benchmarks.compared

dev: $(DEV)/.ready ## Make one environment with everything, for an editor
	@echo "$(DEV)/bin/python"

clean: ## Remove everything that the other targets made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov dist reports docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `.venv/test-3.12/` holds the library and its dependency group `test`, under Python 3.12.
# Its pip is renewed first: the one that comes with a Python may not know dependency groups yet.
define make-environment
@test -n "$(PYTHON)" && $(PYTHON) -c '$(USABLE)' 2>/dev/null || { \
	echo "Python 3.11 or newer, with venv, is needed; name one: make $(MAKECMDGOALS) PYTHON=..." >&2; \
	echo "(Debian and Ubuntu have venv in a package of its own, python3-venv.)" >&2; exit 1; }
@echo "Setting up $(@D), once" >&2
@$(PYTHON) -m venv --clear $(@D)
@$(@D)/bin/python -m pip install -qq --upgrade "pip>=25.1"
endef

.venv/%-$(VERSION)/.ready: pyproject.toml src/resilient/_version.py
	$(make-environment)
	@$(@D)/bin/python -m pip install -qq --editable . --group $*
	@touch $@

$(LOWEST)/.ready: pyproject.toml src/resilient/_version.py tests/project/lowest.py
	$(make-environment)
	@$(@D)/bin/python tests/project/lowest.py > $(@D)/constraints.txt
	@$(@D)/bin/python -m pip install -qq --editable . --group test --constraint $(@D)/constraints.txt
	@touch $@
