# Two commands do everything on a fresh Debian or Ubuntu machine with Python 3.11 or newer:
#   make demo          install, start the service with its embedded demo EHR, fire real hooks, keep serving
#   make demo ONCE=1   the same, and exit after printing the cards
#   make test          install what the tests need, Debian packages included, and run them all
#   make pictures      take the pictures of README and docs anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
# Root in a container has no sudo, and needs none.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

.PHONY: demo test pictures lint types unit sbom audit install install-test debian-packages node-packages clean
.DEFAULT_GOAL := demo

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(APT) update && $(APT) install -y python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.installed: $(BIN)/pip setup.cfg constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed setup.cfg constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

demo: install
	$(BIN)/cds-service demo --port $(PORT) $(if $(ONCE),--once)

debian-packages:
	@missing=$$(for p in $$(grep -v '^#' tests/debian-packages.txt); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	[ -z "$$missing" ] || { $(APT) update -q && $(APT) install -y -q --no-install-recommends $$missing; }

NODE_MODULES := $(patsubst %/package-lock.json,%/node_modules,$(wildcard tests/servers/*/package-lock.json))
tests/servers/%/node_modules: tests/servers/%/package-lock.json | debian-packages
	cd tests/servers/$* && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@
node-packages: $(NODE_MODULES)

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-test
	$(BIN)/mypy

# promtool alone, out of Debian's package: installed whole, that one would start a server. Without it one test skips.
PROMTOOL := build/tools/prometheus/usr/bin
$(PROMTOOL)/promtool:
	@mkdir -p build/tools/prometheus
	-@cd build/tools && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb prometheus && rm prometheus_*.deb

# Ray by itself, for its schema: beside everything else it would be the largest of what the tests install.
RAY := build/tools/ray
$(RAY)/.installed: constraints.txt
	-@$(PYTHON) -m venv $(RAY) && $(RAY)/bin/pip install -q --disable-pip-version-check \
	  "ray[serve]==$$(sed -n 's/^ray==//p' constraints.txt)" && touch $@

unit: export PATH := $(abspath $(PROMTOOL)):$(PATH)
unit: install-test debian-packages node-packages $(PROMTOOL)/promtool $(RAY)/.installed
# A test that fails once and then passes is named at the end: it is a finding, but no reason to hold a release back.
	$(BIN)/pytest --reruns 1 --reruns-delay 2 -rR --cov --cov-report=term:skip-covered --cov-report=json:$(VENV)/coverage.json
	$(BIN)/python tests/coverage_floor.py $(VENV)/coverage.json

test: lint types unit

TOOLS := build/tools
$(TOOLS)/.installed: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install -q --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

sbom: install-test $(TOOLS)/.installed
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --of JSON -o build/environment.json
	$(BIN)/python tests/supply_chain.py sbom build/environment.json > build/sbom.json
	@echo "build/sbom.json: CycloneDX of the packages and models of this release"

# pip-audit ends well too where it could ask nobody; the verdict tells the two apart.
audit: install-test $(TOOLS)/.installed
	$(BIN)/python tests/supply_chain.py pins > build/pins.txt
	@rm -f build/audit.json
	-@$(TOOLS)/bin/pip-audit --no-deps --disable-pip -r build/pins.txt --progress-spinner off -f json -o build/audit.json 2>build/audit.log
	@$(BIN)/python tests/supply_chain.py verdict build/audit.json

# Every page as a picture, for README and docs. Look at each before it is committed.
pictures: install-test debian-packages
	$(BIN)/python -P tests/pictures.py docs/images

clean:
	rm -rf $(VENV) $(NODE_MODULES) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
