# `make` lists the targets. Each makes its own environment in .venv; nothing needs to be installed by hand. Python compiles
# what it imports, which is a small part of what pip would.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
EXTRAS := search,serve,onnx,mlflow,excel,images,postgres,s3,dev
# Whole searches, kills, and what needs a database server or a GPU have targets of their own.
QUICK := -m "not slow and not faults and not postgres and not gpu" --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Rooms with tests that need no model; `--unit` leaves out those that do.
UNIT := tests/spaces tests/search tests/objectives/data tests/objectives/layers/test_batching.py tests/test_rooms.py
SEED ?= 1
# What `make newest` takes from outside constraints.txt.
NEWEST ?= huggingface-hub optuna peft ray safetensors tokenizers transformers
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.DEFAULT_GOAL := help
.PHONY: help demo smollm2 test test-unit test-shuffled coverage test-slow test-postgres test-faults test-gpu newest bench quality docs notebooks site lint types wheel clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# Compiled on all cores, and whatever PYTHONDONTWRITEBYTECODE says: without it each process takes twice as long to start.
# Some packages bring templates that can't be compiled.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null 2>&1 || true
	touch $@

demo: .venv/.installed  ## A whole search in small: run, export, predict (6 min)
	$(BIN)/python studies/prepare.py
	$(BIN)/promptgraft validate studies/demo.yaml
	$(BIN)/promptgraft run studies/demo.yaml
	$(BIN)/promptgraft best demo
	$(BIN)/promptgraft export demo
	$(BIN)/promptgraft verify runs/demo/bundle
	$(BIN)/promptgraft predict runs/demo/bundle --input studies/data/amazon.csv --output runs/demo/predictions.csv
	@echo "look at it: $(BIN)/promptgraft dashboard demo"
	@$(BIN)/promptgraft best demo | head -1

smollm2: .venv/.installed  ## Six trials of a causal LM, and their judging (an hour)
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/promptgraft run studies/smollm2.yaml --trials 6
	$(BIN)/promptgraft export smollm2

test: .venv/.installed  ## All tests but the slow ones, and those for a server or a GPU (8 to 14 min)
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest $(QUICK) -p no:randomly --durations 30

test-unit: .venv/.installed  ## Those without a model, a network or Ray (80 s)
	$(BIN)/pytest $(QUICK) -p no:randomly --unit $(UNIT)

test-shuffled: .venv/.installed  ## What `make test` runs, in an order that SEED decides (8 to 14 min)
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest $(QUICK) --randomly-seed $(SEED)

# Not in the gate: before Python 3.14, branches are measured by tracing each call, which makes tests half as long again.
coverage: .venv/.installed  ## Branch coverage of what `make test` runs (11 min)
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest $(QUICK) -p no:randomly --cov --cov-report term

test-slow: .venv/.installed  ## Whole searches, crashes, failures (2 hours)
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -p no:randomly -m slow

test-postgres: .venv/.installed  ## Tests on a PostgreSQL server, which is installed if there is none (minutes)
	command -v initdb || ls -d /usr/lib/postgresql/*/bin || $(SUDO) apt-get install -y postgresql
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -p no:randomly -m postgres -s

test-faults: .venv/.installed  ## 200 kills of drivers, workers, nodes and Ray (50 min)
	$(BIN)/python studies/prepare.py --smollm2
	$(BIN)/pytest -p no:randomly -m faults -s

# Without studies/prepare.py: a machine with a GPU may have no network.
test-gpu: .venv/.installed  ## Objectives on CUDA against the CPU; skipped without a GPU (minutes)
	$(BIN)/pytest -p no:randomly -m gpu -rs tests/objectives/test_gpu.py

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
quality: .venv/.installed .peers-venv/.installed .autointent-venv/.installed  ## Models found on equal labels and CPU-seconds (a night)
	$(BIN)/python -m tests.bench.quality

bench: .venv/.installed .peers-venv/.installed  ## Every figure of docs/benchmarks.md, other tools' included (a day)
	$(BIN)/python studies/prepare.py --smollm2 --kinds --images
	mkdir -p runs
	$(BIN)/python -m tests.bench.overhead
	$(BIN)/python -m tests.bench.growth --out runs/growth.json --plot runs/growth.png
	$(BIN)/python -m tests.bench.replay --out runs/replay.json
	$(BIN)/python -m tests.bench.image_replay --out runs/replay-images.json
	$(BIN)/python -m tests.bench.splits studies/digits.yaml
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

docs: .venv/.installed  ## Regenerate what docs/ takes from the schemas (seconds)
	$(BIN)/promptgraft schema reference > docs/study-reference.md
	$(BIN)/promptgraft schema study > docs/study.schema.json
	$(BIN)/promptgraft schema manifest > docs/manifest.schema.json
	mkdir -p docs/outputs
	for command in sources status best report verify compare history; do \
	  $(BIN)/promptgraft schema $$command > docs/outputs/$$command.schema.json || exit; done

# mkdocs reads the sources without importing them, so that its environment has nothing of promptgraft's.
.docs-venv/.installed: pyproject.toml
	$(PYTHON) -m venv .docs-venv
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > .docs-venv/requirements.txt
	.docs-venv/bin/pip install --quiet --requirement .docs-venv/requirements.txt
	touch $@

site: .docs-venv/.installed  ## The documents as a site, in build/site; a broken link is an error (seconds)
	NO_MKDOCS_2_WARNING=1 .docs-venv/bin/mkdocs build --strict --quiet

# In order: the second and the fourth use the first one's study. They are run, and not written.
notebooks: .venv/.installed  ## Run the tutorials of docs/tutorials (5 min)
	$(BIN)/python studies/prepare.py
	$(BIN)/pip install --quiet --constraint constraints.txt ipykernel nbclient
	for notebook in docs/tutorials/*.ipynb; do $(BIN)/jupyter execute --timeout=600 $$notebook || exit; done

lint: .venv/.installed  ## Style, import contracts and spelling (seconds)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell

types: .venv/.installed  ## mypy, and pyright on what an editor must resolve (1 min)
	$(BIN)/mypy --strict -p promptgraft -p tests.bench
	$(BIN)/mypy --strict studies/prepare.py tests/check_distribution.py tests/typing/imports.py
	for version in 3.11 3.12 3.13; do \
	  $(BIN)/pyright --pythonpath $(BIN)/python --pythonversion $$version tests/typing/imports.py || exit; done

wheel: .venv/.installed  ## Build wheel and sdist, compare them, try the wheel in an empty environment (1 min)
	rm -rf dist build .wheel-venv
	$(BIN)/python -m build --quiet --wheel
	$(BIN)/python -m build --quiet --sdist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist/from-sdist dist/*.tar.gz
	$(BIN)/python tests/check_distribution.py dist/*.whl dist/from-sdist/*.whl
	$(PYTHON) -m venv .wheel-venv
	.wheel-venv/bin/pip install --quiet --no-compile --constraint constraints.txt dist/*.whl
	cd / && $(CURDIR)/.wheel-venv/bin/python $(CURDIR)/tests/check_distribution.py
	cd / && $(CURDIR)/.wheel-venv/bin/promptgraft --version
	cd / && $(CURDIR)/.wheel-venv/bin/promptgraft --help
	cd / && ! $(CURDIR)/.wheel-venv/bin/python -c "import optuna" 2>/dev/null
	cd / && ! $(CURDIR)/.wheel-venv/bin/python -c "import ray" 2>/dev/null

newest:  ## Unit tests with the newest Optuna, Ray, transformers and PEFT, in .newest-venv (15 min)
	rm -rf .newest-venv
	$(PYTHON) -m venv .newest-venv
	grep -vE $(foreach name,$(NEWEST),-e '^$(name)==') constraints.txt > .newest-venv/constraints.txt
	.newest-venv/bin/pip install --quiet --no-compile --constraint .newest-venv/constraints.txt --editable '.[$(EXTRAS)]'
	.newest-venv/bin/pip list | grep -E $(foreach name,$(NEWEST) torch,-e '^$(name) ')
	.newest-venv/bin/python studies/prepare.py --smollm2
	.newest-venv/bin/pytest $(QUICK) -p no:randomly --ignore tests/integration $(TESTS)

clean:  ## Remove environments and builds; studies/ and runs/ stay
	rm -rf .venv .peers-venv .autointent-venv .wheel-venv .newest-venv .docs-venv build dist .package/*.egg-info
