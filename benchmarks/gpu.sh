#!/usr/bin/env bash
# On a machine with a GPU: build csrc with plain cmake, run the kernel tests, the sanitizers and the benchmark, in under 9 minutes.
#
#     bash benchmarks/gpu.sh [build] [test] [sanitize] [bench] [fit]        all of them by default
#
# Needs Python >= 3.11 with torch, triton, numpy, scipy, pytest, pytest-xdist, hypothesis and pybind11, cmake, nvcc and compute-sanitizer; none of awkward,
# hist or uproot. Logs and tables go to $OUT, or to gpu-results.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${OUT:-gpu-results}")
mkdir -p "$out"
parts=" ${*:-build test sanitize bench fit} "
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
wanted() { [[ $parts == *" $1 "* ]]; }
said() { printf '%s  %s\n' "$(date +%T)" "$1"; }

if wanted build; then
  said "build"
  cmake -S . -B build/gpu -DHEPGEN_CUDA=ON -DHEPGEN_CUDA_ARCHITECTURES=native -DHEPGEN_CPU=OFF -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" > "$out/build.log" 2>&1
  cmake --build build/gpu -j "$(nproc)" >> "$out/build.log" 2>&1 || { tail -40 "$out/build.log"; exit 1; }
  cp build/gpu/_cuda*.so hepgen/
fi
failed=0
if wanted test; then
  for backend in cuda triton; do
    said "test $backend"
    timeout -s INT 170 "$python" -m pytest tests/kernels -k $backend -q -p no:cacheprovider -n "$(nproc)" -W default --timeout 120 \
      > "$out/test-$backend.log" 2>&1 || failed=1
    grep -E "^(FAILED|ERROR|[0-9]+ (passed|failed)|=+ .* in )" "$out/test-$backend.log" | cut -c1-200 | tail -25
  done
  said "test fits"
  timeout -s INT 100 "$python" -m pytest tests/training/test_device.py -q -p no:cacheprovider -n 8 -W default > "$out/test-fits.log" 2>&1 || failed=1
  grep -E "^(FAILED|ERROR|[0-9]+ (passed|failed)|=+ .* in )" "$out/test-fits.log" | cut -c1-200 | tail -15
fi
if wanted sanitize; then
  said "sanitize"
  for tool in memcheck racecheck; do
    timeout 120 compute-sanitizer --tool $tool --error-exitcode 9 "$python" benchmarks/gpu_small.py > "$out/$tool.log" 2>&1 || failed=1
    # the tool finds no error in a program that ended before its first kernel
    grep -qx done "$out/$tool.log" || failed=1
    echo "$tool: $(tail -1 "$out/$tool.log"); the program was $(grep -qx done "$out/$tool.log" && echo done || echo not done)"
  done
fi
if wanted bench; then
  said "bench"
  "$python" benchmarks/gpu.py --out "$out" 2>&1 | tee "$out/bench.log" || failed=1
fi
if wanted fit; then
  said "fit"
  "$python" benchmarks/gpu_fit.py --out "$out/gpu_fit.json" 2>&1 | tee "$out/fit.log" || failed=1
fi
said "end"
exit $failed
