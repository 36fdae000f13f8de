# Sets up everything it needs in .venv; needs no GPU, no data and no argument.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements.lock
NEWEST := .venv-newest
LOCKING := .venv-lock

.PHONY: demo test docs docs-long lint format lock newest clean

demo: $(READY)
	"$(BIN)/latbench" demo

test: $(READY)
	"$(BIN)/python" -m pytest --numprocesses auto --dist worksteal

# the site; a warning, such as a link that leads nowhere, is an error
docs: $(READY)
	"$(BIN)/python" -m sphinx -q -W --keep-going -b html docs site
	@echo "open site/index.html"

# every example of the pages as it stands, which takes hours; puts what it prints into the pages
docs-long: $(READY)
	"$(BIN)/python" docs/examples.py --refresh

lint: $(READY)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/hadolint" docker/*.Dockerfile
	.ci/licences "$(BIN)"

format: $(READY)
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .
	"$(BIN)/python" .ci/modules.py

# the versions that everything above installs, resolved anew from pyproject.toml
lock:
	$(PYTHON) -m venv --clear $(LOCKING)
	$(LOCKING)/bin/python -m pip install -qq --upgrade pip packaging
	$(LOCKING)/bin/python .ci/lock.py $(LOCK)
	rm -rf $(LOCKING)

# the tests with the newest versions that pyproject.toml allows, where these are not the lock's
newest: $(LOCK)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -qq --upgrade pip packaging
	$(NEWEST)/bin/python .ci/lock.py $(LOCK) --compare >$(NEWEST)/changed
	if grep --quiet . $(NEWEST)/changed; then \
		echo "newer than the lock: $$(cat $(NEWEST)/changed)" && \
		$(NEWEST)/bin/python -m pip install -qq --upgrade --upgrade-strategy eager \
			--editable '.[nas,openvino,report,ray,docs,dev]' && \
		$(NEWEST)/bin/python -m pytest --numprocesses auto --dist worksteal; \
	else \
		echo "those of the lock, nothing more to run"; \
	fi

clean:
	rm -rf "$(VENV)" $(NEWEST) $(LOCKING) build *.egg-info
	rm -rf site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# pip's warnings are about the machine's own indexes and users; its errors are shown. The last step
# builds with the locked setuptools, not with one fetched for the occasion.
$(READY): pyproject.toml $(LOCK)
	@echo "installing into $(VENV), which takes some minutes the first time"
	@test -x "$(BIN)/python" || $(PYTHON) -m venv "$(VENV)"
	@"$(BIN)/python" -m pip install -qq --require-hashes --requirement $(LOCK)
	@"$(BIN)/python" -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch "$@"
