// What this machine can do at most, measured: the figures that a benchmark is a share of.
#pragma once

namespace hepgen {

// Multiply-adds a second (each counts as two flops), float32, registers only, all threads at once.
double peak_flops(int threads);

// Bytes a second that a copy or an update in place reads and writes, whichever is more, where nothing fits a cache.
double memory_bandwidth(int threads);

namespace baseline {
float multiply_add_loop(long iterations);
int multiply_add_flops();
}  // namespace baseline
#ifdef HEPGEN_X86
namespace avx2 {
float multiply_add_loop(long iterations);
int multiply_add_flops();
}  // namespace avx2
namespace avx512 {
float multiply_add_loop(long iterations);
int multiply_add_flops();
}  // namespace avx512
#endif

}  // namespace hepgen
