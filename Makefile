# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo-out
BIN := $(VENV)/bin
SETTINGS := $(if $(SET),$(foreach s,$(SET),--set $(s)))

.PHONY: demo test check bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Raw noisy pairs to a bilingual retrieval table, on the synthetic world and the tiny model in the package.
demo: $(VENV)/.installed
	$(BIN)/m2raap data import world --out $(DEMO)/world
	$(BIN)/m2raap run demo --data $(DEMO)/world/train --bench motion=$(DEMO)/world/test --truth $(DEMO)/world/truth.parquet --out $(DEMO)/run $(SETTINGS)

# Compiled modules are kept, whatever the environment says: the tests start hundreds of processes.
test: $(VENV)/.installed
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tests/root_files.py
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.installed
	for file in bench/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(DEMO)
