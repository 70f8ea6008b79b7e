// Compiled once per instruction set; see ceiling.hpp.
#include "hepgen/ceiling.hpp"
#include "hepgen/simd.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {
constexpr int kChains = 12;  // latency times throughput, and still within 16 registers
}

int multiply_add_flops() {
    return 2 * kChains * Lanes<float>::width;
}

float multiply_add_loop(long iterations) {
    Vec<float> chain[kChains];
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chain[c] = broadcast<float>(static_cast<float>(c));
    Vec<float> factor = broadcast<float>(0.999f), term = broadcast<float>(1e-3f);
    for (long i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
        for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + term;
    }
    Vec<float> sum{};
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum += chain[c];
    return sum_lanes<float>(sum);
}

}  // namespace hepgen::HEPGEN_ISA
