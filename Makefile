# make demo   set up .venv, build, and run the main job on the packaged files
# make test   set up .venv, build, and pass all tests
# make robustness   kill, damage and fill up at length
# make sanitize   build the kernels with sanitizers, and pass the tests in C++
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := pyproject.toml CMakeLists.txt README.md constraints.txt $(shell find csrc hepgen plugins -type f ! -name '*.pyc' ! -name '_*.so')
STRICT := $(if $(CI),--config-settings=cmake.define.HEPGEN_WERROR=ON)
# for the cards of this machine, or for one kind where there are none; a wheel has them all. With the emulation that tests use
KERNELS := --config-settings=cmake.define.HEPGEN_CUDA_ARCHITECTURES=$(if $(shell command -v nvidia-smi),native,90) \
  --config-settings=cmake.define.HEPGEN_EMULATED=ON

.PHONY: demo test lint sanitize triton robustness bench clean

demo: $(INSTALLED)
	$(BIN)/hepgen demo --out hepgen-demo --overwrite

# a file of tests at a time on each core, of four at most; a safe path keeps the source tree from shadowing what is installed
test: $(INSTALLED)
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.cu')
	command -v nvcc > /dev/null || exit 0; $(BIN)/python csrc/cuda/resources.py

# the kernels without Python, under the address, undefined-behaviour and thread sanitizers; one instruction set, for time
SANITIZE_ISA := $(shell grep -qw avx2 /proc/cpuinfo 2>/dev/null && echo avx2 || echo baseline)
sanitize: $(INSTALLED)
	export PATH="$(CURDIR)/$(BIN):$$PATH"; for kind in address,undefined thread; do \
	  cmake -S . -B build/sanitize-$$kind -G Ninja -DHEPGEN_SANITIZE=$$kind -DHEPGEN_WERROR=ON -DHEPGEN_PYTHON=OFF \
	    -DHEPGEN_CUDA=OFF -DHEPGEN_TESTS=ON -DHEPGEN_ONE_ISA=$(SANITIZE_ISA) && cmake --build build/sanitize-$$kind && \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 build/sanitize-$$kind/hepgen_tests || exit 1; \
	done

# the Triton kernels in the interpreter of the version that they ran with on a card, or of another (TRITON=3.9.0), and compiled for a card:
# minutes of their own, so not a part of `make test`, where they skip unless triton is there
TRITON ?= 3.6.0
triton: $(INSTALLED)
	$(BIN)/python -m pip install --quiet triton==$(TRITON)
	HEPGEN_TRITON=full PYTHONSAFEPATH=1 $(BIN)/python -m pytest tests/kernels -k triton

# what happens when processes are killed, disks fill up and files are damaged, and whatever arrays the kernels are given, these under
# sanitizers too, in C++ for FUZZ_SECONDS and in Python: docs/robustness.md
FUZZ_SECONDS ?= 120
FUZZ_SEED ?= 1
FUZZED := build/sanitize-python
PRELOADED = $(foreach name,libasan.so libstdc++.so,$(shell $(or $(CXX),c++) -print-file-name=$(name)))
robustness: $(INSTALLED)
	HEPGEN_ROBUSTNESS=full PYTHONSAFEPATH=1 $(BIN)/python -m pytest tests/robustness --timeout 3600
	export PATH="$(CURDIR)/$(BIN):$$PATH"; cmake -S . -B $(FUZZED) -G Ninja -DHEPGEN_SANITIZE=address,undefined -DHEPGEN_CUDA=OFF \
	  -DHEPGEN_EMULATED=OFF -DHEPGEN_TESTS=ON -DHEPGEN_ONE_ISA=$(SANITIZE_ISA) -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python && \
	  cmake --build $(FUZZED)
	export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1; \
	  $(FUZZED)/hepgen_tests fuzz $(FUZZ_SECONDS) $(FUZZ_SEED) && \
	  HEPGEN_ROBUSTNESS=full HEPGEN_ROBUSTNESS_CORE=$$(ls $(FUZZED)/_core*.so) LD_PRELOAD="$(PRELOADED)" PYTHONSAFEPATH=1 \
	  $(BIN)/python -m pytest -s tests/robustness/test_fuzz_core.py tests/robustness/test_fuzz_kernels.py --timeout 3600

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation ".[bench]"
	$(BIN)/hepgen bench

$(INSTALLED): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt cmake ninja pybind11 scikit-build-core
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation $(STRICT) $(KERNELS) ".[dev]"
	touch $@

clean:
	rm -rf build dist hepgen-demo $(VENV)
