# Every target makes its own environment in .venv; nothing needs to be installed by hand. Python compiles what it imports,
# which is a small part of what pip would.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo smollm2 test test-slow test-postgres test-faults bench quality docs lint types wheel clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[search,serve,onnx,mlflow,postgres,s3,dev]'
	touch $@

demo: .venv/.installed  ## A whole search in small: run, export, predict
	$(BIN)/python studies/prepare.py
	$(BIN)/promptgraft validate studies/demo.yaml
	$(BIN)/promptgraft run studies/demo.yaml
	$(BIN)/promptgraft best demo
	$(BIN)/promptgraft export demo
	$(BIN)/promptgraft verify runs/demo/bundle
	$(BIN)/promptgraft predict runs/demo/bundle --input studies/data/amazon.csv --output runs/demo/predictions.csv
	@echo "look at it: $(BIN)/promptgraft dashboard demo"

smollm2: .venv/.installed  ## Six trials of the causal LM
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/promptgraft run studies/smollm2.yaml --trials 6
	$(BIN)/promptgraft export smollm2

test: .venv/.installed  ## Everything but whole searches
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -m "not slow and not faults and not postgres" --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 30

test-slow: .venv/.installed  ## Whole searches, crashes, failures
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -m slow

test-postgres: .venv/.installed  ## Install a PostgreSQL server if there is none, and test against it
	command -v initdb || ls -d /usr/lib/postgresql/*/bin || $(SUDO) apt-get install -y postgresql
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -m postgres -s

test-faults: .venv/.installed  ## 200 kills of drivers, workers, nodes and Ray: about 40 minutes
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -m faults -s

# The peers get an environment of their own: what a user would install today, without promptgraft.
.peers-venv/.installed: tests/bench/peers/requirements.txt
	$(PYTHON) -m venv .peers-venv
	.peers-venv/bin/pip install --quiet --requirement tests/bench/peers/requirements.txt
	touch $@

# AutoIntent asks for older versions of what the other peers use.
.autointent-venv/.installed: tests/bench/peers/autointent.txt
	$(PYTHON) -m venv .autointent-venv
	.autointent-venv/bin/pip install --quiet --requirement tests/bench/peers/autointent.txt
	touch $@

# OpenAutoNLU is not among them: it installs on Python 3.12 only.
quality: .venv/.installed .peers-venv/.installed .autointent-venv/.installed  ## Models found on equal labels and CPU-seconds: a night
	$(BIN)/python -m tests.bench.quality

bench: .venv/.installed .peers-venv/.installed  ## All figures, beside what a user would run today: a day on two cores
	$(BIN)/python studies/prepare.py --smollm2
	mkdir -p runs
	$(BIN)/python -m tests.bench.overhead
	$(BIN)/python -m tests.bench.growth --out runs/growth.json --plot runs/growth.png
	$(BIN)/python -m tests.bench.replay --out runs/replay.json
	$(BIN)/python -m tests.bench.surface --out runs/surface.json --files runs/surface-store
	$(BIN)/python -m tests.bench.replay --study surface --runs 1 --systems list,hpo_optuna_tuned --out runs/replay-surface.json
	$(BIN)/python -m tests.bench.surface --study tests/bench/fronts.yaml --out runs/fronts-table.json --files runs/surface-store
	$(BIN)/python -m tests.bench.fronts runs/fronts-table.json --out runs/fronts.json
	$(BIN)/python -m tests.bench.free_search runs/surface.json --peer runs/replay-surface.json --out runs/free-search.json
	$(BIN)/python -m tests.bench.pools --out runs/pools.json
	$(BIN)/python -m tests.bench.adaptability --out runs/adaptability.json
	$(BIN)/python -m tests.bench.variants --out runs/variants.json
	$(BIN)/python -m tests.bench.repeats --out runs/repeats
	$(BIN)/python -m tests.bench.coverage runs/repeats --searches 400 --out runs/coverage.json
	for many in 32 100; do \
	  $(BIN)/python -m tests.bench.coverage --candidates $$many --searches 400 --out runs/made-up-$$many.json || exit; done
	for plant in help shuffled unrelated; do \
	  $(BIN)/python -m tests.bench.repeats --out runs/$$plant --plant $$plant --candidates 4 --repeats 12 || exit; done
	$(BIN)/python -m tests.bench.plants runs/help runs/shuffled runs/unrelated --out runs/plants.json
	$(BIN)/promptgraft run tests/bench/gain.yaml --concurrent 1
	$(BIN)/promptgraft export gain
	$(BIN)/python -m tests.bench.formats --out runs/formats.json
	test -d runs/demo/bundle || $(MAKE) demo
	$(BIN)/python -m tests.bench.serving --out runs/serving.json

docs: .venv/.installed  ## What is generated from the schemas
	$(BIN)/promptgraft schema reference > docs/study-reference.md
	$(BIN)/promptgraft schema study > docs/study.schema.json
	$(BIN)/promptgraft schema manifest > docs/manifest.schema.json

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.installed
	MYPYPATH=.typing $(BIN)/mypy --strict --namespace-packages --explicit-package-bases -p promptgraft -p tests.bench
	$(BIN)/mypy --strict studies/prepare.py

wheel: .venv/.installed  ## Build the wheel, install it in an empty environment, ask it for help
	rm -rf dist build .wheel-venv
	$(BIN)/python -m build --quiet --wheel
	$(PYTHON) -m venv .wheel-venv
	.wheel-venv/bin/pip install --quiet --no-compile --constraint constraints.txt dist/*.whl
	cd / && $(CURDIR)/.wheel-venv/bin/promptgraft --help
	cd / && ! $(CURDIR)/.wheel-venv/bin/python -c "import optuna" 2>/dev/null
	cd / && ! $(CURDIR)/.wheel-venv/bin/python -c "import ray" 2>/dev/null

clean:
	rm -rf .venv .peers-venv .autointent-venv .wheel-venv build dist *.egg-info
