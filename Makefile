# Two commands: `make run` and `make test`. The rest is for those who change the code.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test install web models proto check test-compose up down clean
PROFILE := $(or $(VISAVIS_PROFILE),standard)
PY := .venv/bin/python
WEB := services/gateway/web
WEB_SOURCES := $(shell find $(WEB) -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -path '*/test/*' 2>/dev/null)
export PYTHONUNBUFFERED := 1

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

run: install web models ## install what is missing, start everything, print the page's address
	@.venv/bin/visavis run --profile $(PROFILE)

test: export VISAVIS_PROFILE := small
test: .venv/dev.stamp web ## all tests but those with containers (about 5 minutes on two cores)
	@sh deploy/npm.sh test
	@echo "Fetching the models of the small profile (350 MB, about a minute; once)."
	@.venv/bin/visavis models pull --profile small
	@sh deploy/chromium.sh
	@$(PY) -m pytest

install: .venv/run.stamp ## make .venv with everything that runs

web: .venv/run.stamp $(WEB)/dist/index.html ## build the web client

models: .venv/run.stamp ## fetch the models of VISAVIS_PROFILE (standard: 1.7 GB, small: 350 MB)
	@echo "Fetching the models of the $(PROFILE) profile (once; standard: 1.7 GB, some minutes; small: 350 MB, about a minute)."
	@.venv/bin/visavis models pull --profile $(PROFILE)

proto: .venv/dev.stamp ## regenerate visavis/v1 from proto/
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. proto/visavis/v1/*.proto

check: .venv/dev.stamp $(WEB)/node_modules/.package-lock.json proto ## formatting, lint, types, generated code up to date
	git diff --exit-code visavis/v1
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	sh deploy/npm.sh run check

test-compose: .venv/dev.stamp ## build the containers, call through them, break them (needs docker compose)
	@$(PY) -m pytest -m compose tests/compose

up: ## start everything in containers and wait until it is ready
	docker compose up -d --build --wait

down: ## stop the containers; models and transcripts stay
	docker compose down

clean: ## remove what make made, but not the models
	rm -rf .venv $(WEB)/node_modules $(WEB)/dist .mypy_cache .pytest_cache .ruff_cache

.venv/%.stamp: pyproject.toml constraints.txt deploy/venv.sh
	@echo "Installing the Python packages ($*) into .venv (about a minute)."
	@sh deploy/venv.sh $*
	@touch .venv/run.stamp $@

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json | .venv/run.stamp
	@echo "Installing the web client's packages (about 20 seconds)."
	@sh deploy/npm.sh ci --no-audit --no-fund --loglevel=error
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(WEB_SOURCES)
	@echo "Building the web client (about 10 seconds)."
	@sh deploy/npm.sh run --silent build
	@touch $@
