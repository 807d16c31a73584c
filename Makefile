# Two commands on a bare machine (Python 3.10+, make): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := -e plugins/autotl-efficientnet-lite -e plugins/autotl-elpv
PLUGINS := $(DEMO) -e plugins/autotl-torchvision -e plugins/autotl-gbdt -e plugins/autotl-huggingface \
	-e plugins/autotl-mlflow

.PHONY: demo test lint bench soak clean

demo: $(VENV)/demo
	$(BIN)/autotl search elpv --time 5m

test: $(VENV)/test
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

$(VENV)/demo: pyproject.toml plugins/*/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e ".[dashboard]" $(DEMO)
	touch $@

$(VENV)/test: pyproject.toml plugins/*/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e ".[dev]" $(PLUGINS)
	touch $@ $(VENV)/demo

bench: $(VENV)/test
	$(BIN)/python tests/bench/bench.py

soak: $(VENV)/test
	$(BIN)/python tests/soak/soak.py

clean:
	rm -rf $(VENV) build dist *.egg-info
