# make demo   set up .venv, build, and run the main job on the packaged files
# make test   set up .venv, build, and pass all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := pyproject.toml CMakeLists.txt README.md constraints.txt $(shell find csrc hepgen plugins -type f ! -name '*.pyc' ! -name '_core*.so')
STRICT := $(if $(CI),--config-settings=cmake.define.HEPGEN_WERROR=ON)

.PHONY: demo test lint bench clean

demo: $(INSTALLED)
	$(BIN)/hepgen demo --out hepgen-demo --overwrite

# a safe path keeps the source tree from shadowing what is installed
test: $(INSTALLED)
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.cpp' -o -name '*.hpp')

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation ".[bench]"
	$(BIN)/hepgen bench mmd
	$(BIN)/hepgen bench maf
	$(BIN)/hepgen bench mlp

$(INSTALLED): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt cmake ninja pybind11 scikit-build-core
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation $(STRICT) ".[dev]"
	touch $@

clean:
	rm -rf build dist hepgen-demo $(VENV)
