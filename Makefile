# Everything works from a bare Python >= 3.11 with venv: the first target makes .venv and installs what the lock file pins.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow check format docs bench soak lock clean
.DELETE_ON_ERROR:

$(READY): pyproject.toml requirements-build.lock requirements-dev.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: $(READY) ## the Media Library and the edge in front of it, with URLs to open
	$(BIN)/imgproxy demo $(if $(FOLDER),"$(FOLDER)")

test: $(READY) ## every test a developer waits for
	$(BIN)/pytest -n auto

test-slow: $(READY) ## the tests that take longer
	$(BIN)/pytest -m slow

check: $(READY) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(READY) ## the generated parts of the documentation: parameters, settings, the map of modules
	$(BIN)/python -m tools.parameter_tables
	$(BIN)/imgproxy check --example > config.example.toml
	$(BIN)/python -m tools.module_map
	$(BIN)/python -m tools.reference_pages

bench: $(READY) ## every goal as a ratio, about an hour: `make bench PHOTOS=DIR ARGS="--only hot,render --quick"`
	$(BIN)/python -m benchmarks $(if $(PHOTOS),--photos "$(PHOTOS)") $(ARGS)

soak: $(READY) ## half an hour of faults under load, then compare memory, descriptors, threads and journal: `make soak SECONDS=90`
	$(BIN)/python -m benchmarks.soak $(if $(SECONDS),--seconds $(SECONDS))

lock: ## resolve the dependencies anew and pin them with their hashes
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet "uv>=0.13,<1"
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade --python-version 3.11 --extra cluster --extra heic --extra store pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.lock --extra cluster --extra heic --extra store --extra faces pyproject.toml -o requirements-faces.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-faces.lock --extra faces pyproject.toml --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-dev.lock --group build -o requirements-build.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
