# Everything works from a bare Python >= 3.11 with venv: the first target makes .venv and installs what the lock files pin.
PYTHON ?= python3
BIN := .venv/bin
# What runs, and what a developer needs on top of it.
RUNTIME := .venv/.runtime
READY := .venv/.ready
SITE_TOOLS := .venv/.site-tools
# The hooks of mkdocs are modules of tools/. mkdocs 1.6 is the last of its line; the theme says so at each start, unless told not to.
SITE_BUILD := PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
# Where libvips' headers are installed, pyvips would be built against the system's libvips, and would replace the newer one of
# pyvips-binary. Without pkg-config's files it does not find them. pip may have such a build in its cache, from another project.
NO_HEADERS := PKG_CONFIG_LIBDIR=/nonexistent PKG_CONFIG_PATH=
PIP := $(NO_HEADERS) $(BIN)/pip install --quiet --disable-pip-version-check
LIST_TARGETS = awk -F ':.*\#\# ' '/^[a-z-]+:.*\#\# / { printf "  make %-10s %s\n", $$1, $$2 }'

# Images of Python may set it. Then each process that a test starts would compile the service anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow check format texts docs docs-serve bench soak dist sbom lock clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help: ## this list
	@$(LIST_TARGETS) $(firstword $(MAKEFILE_LIST))

$(RUNTIME): pyproject.toml requirements-build.lock requirements.lock
	@echo "Set up .venv, once: 130 MB on disk. It takes about half a minute."
	@$(PYTHON) -m venv .venv
	@echo "  1 of 3: what builds packages that come as source"
	@$(PIP) --require-hashes -r requirements-build.lock
	@$(BIN)/pip cache remove --quiet 'pyvips-*' >/dev/null 2>&1 || true
	@echo "  2 of 3: libvips, the HTTP server and other libraries"
	@$(PIP) --require-hashes --no-build-isolation -r requirements.lock
	@echo "  3 of 3: imgproxy itself"
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(READY): $(RUNTIME) requirements-dev.lock
	@echo "Add the linters and the test tools to .venv, once: another 500 MB on disk. It takes a minute or two."
	@$(PIP) --require-hashes --no-build-isolation -r requirements-dev.lock
	@touch $@

demo: $(RUNTIME) ## a Media Library and the edge, with URLs to open: `make demo FOLDER=~/Pictures ARGS="--port 8081"`
	$(BIN)/imgproxy demo $(if $(FOLDER),"$(FOLDER)") $(ARGS)

test: $(READY) ## every test a developer waits for
	$(BIN)/pytest -n auto $(ARGS)

test-slow: $(READY) ## the tests that take longer
	$(BIN)/pytest -m slow -n 2 --dist loadfile $(ARGS)

check: $(READY) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff mend and format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# What the code declares, as text in the repository. A test fails where a text is stale.
texts: $(READY) ## the generated texts: parameters, settings, errors, the map of modules, the drawing of rooms, the chart's values
	$(BIN)/python -m tools.parameter_tables
	$(BIN)/imgproxy check --example > config.example.toml
	$(BIN)/python -m tools.module_map
	$(BIN)/python -m tools.reference_pages
	$(BIN)/python -m tools.alert_rules
	$(BIN)/python -m tools.dashboard
	$(BIN)/python -m tools.room_drawing
	$(BIN)/python -m tools.chart_texts

$(SITE_TOOLS): $(READY) requirements-docs.lock
	@echo "Add what builds the site to .venv, once: some 60 MB."
	@$(PIP) --require-hashes -r requirements-docs.lock
	@touch $@

build/parameters: $(SITE_TOOLS) $(wildcard tools/parameter_*.py) $(shell find src/imgproxy/params src/imgproxy/render -name '*.py')
	$(BIN)/python -m tools.parameter_pictures $@

build/mermaid/mermaid.min.js: tools/mermaid.py
	$(BIN)/python -m tools.mermaid $@

docs: texts build/parameters build/mermaid/mermaid.min.js ## the documentation as a site, in build/site; a broken link fails
	$(SITE_BUILD) build

docs-serve: texts build/parameters build/mermaid/mermaid.min.js ## show the site, and build it anew at each change: `make docs-serve ARGS="-a 127.0.0.1:8001"`
	$(SITE_BUILD) serve $(ARGS)

bench: $(READY) ## every goal as a ratio, about an hour: `make bench PHOTOS=DIR ARGS="--only hot,render --quick"`
	$(BIN)/python -m benchmarks $(if $(PHOTOS),--photos "$(PHOTOS)") $(ARGS)

soak: $(READY) ## half an hour of faults under load, then compare memory, descriptors, threads and journal: `make soak SECONDS=90`
	$(BIN)/python -m benchmarks.soak $(if $(SECONDS),--seconds $(SECONDS))

dist: $(READY) ## the sdist and the wheel, in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build --target sdist --target wheel
	$(BIN)/check-wheel-contents dist/*.whl

# The list is of an environment that has what runs and nothing else: no pip either.
sbom: dist ## the bill of materials of what runs (CycloneDX), in dist/
	$(PYTHON) -m venv dist/.tool && $(PYTHON) -m venv --without-pip dist/.runs
	dist/.tool/bin/pip install --quiet --disable-pip-version-check "cyclonedx-bom>=7,<8"
	dist/.tool/bin/pip cache remove --quiet 'pyvips-*' >/dev/null 2>&1 || true
	$(NO_HEADERS) dist/.tool/bin/pip --python dist/.runs/bin/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	dist/.tool/bin/pip --python dist/.runs/bin/python install --quiet --disable-pip-version-check --no-deps dist/*.whl
	dist/.tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/imgproxy-edge.cdx.json dist/.runs
	rm -rf dist/.tool dist/.runs

lock: ## resolve the dependencies anew and pin them with their hashes
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet "uv>=0.13,<1"
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade --python-version 3.11 --extra cluster --extra heic --extra store --extra telemetry pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.lock --extra cluster --extra heic --extra store --extra telemetry --extra c2pa --extra faces pyproject.toml -o requirements-faces.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-faces.lock --extra faces pyproject.toml --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-dev.lock --group build -o requirements-build.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-dev.lock --group docs -o requirements-docs.lock

clean: ## remove .venv and caches
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
