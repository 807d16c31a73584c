# Two commands on a bare machine (Python 3.11+, make): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := -e plugins/autotl-efficientnet-lite -e plugins/autotl-elpv
# directories of tests that need no plugin beside those of the demo
LOWEST := tests/data tests/heads tests/study tests/workers tests/coordinator tests/ui tests/trial tests/model tests/test_config.py
PLUGINS := $(DEMO) -e plugins/autotl-torchvision -e plugins/autotl-gbdt -e plugins/autotl-huggingface \
	-e plugins/autotl-mlflow -e plugins/autotl-tensorboard -e plugins/autotl-dask

.PHONY: demo test quick lowest lint simulate cases bench bench-accuracy bench-gpu soak clean

demo: $(VENV)/demo
	$(BIN)/autotl search elpv --time 5m

test: $(VENV)/test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes under two minutes.
quick: $(VENV)/test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# What users reported, script by script, with whole searches: half an hour.
cases: $(VENV)/test
	$(BIN)/pytest -n 2 -m cases tests/test_cases.py

# The same parts of the suite with the oldest versions that pyproject.toml allows, in an environment of their own.
lowest: $(VENV)-lowest/test
	$(VENV)-lowest/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(LOWEST)

lint: $(VENV)/test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# 200 searches of 10,000 trials on 64 workers under a virtual clock.
simulate: $(VENV)/test
	$(BIN)/python tests/coordinator/simulation.py 200

$(VENV)/demo: pyproject.toml plugins/*/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e ".[dashboard]" $(DEMO)
	touch $@

$(VENV)/test: pyproject.toml plugins/*/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e ".[dev]" $(PLUGINS)
	touch $@ $(VENV)/demo

$(VENV)-lowest/test: pyproject.toml tests/lowest.py
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python tests/lowest.py > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/pip install --quiet -c $(VENV)-lowest/constraints.txt -e ".[dev]" $(DEMO)
	touch $@

bench: $(VENV)/test
	$(BIN)/python tests/bench/bench.py

# 8 development sets × 5 splits × a minute, hours: BENCH="--budget 60s --against REV" adds another revision of autotl.
bench-accuracy: $(VENV)/test
	$(BIN)/python tests/bench/accuracy.py $(BENCH)

# Under seven minutes on a machine with one GPU; without one, how decoding scales over cores.
bench-gpu: $(VENV)/test
	$(BIN)/python tests/bench/gpu.py

soak: $(VENV)/test
	$(BIN)/python tests/soak/soak.py

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info
