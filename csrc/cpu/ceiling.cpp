#include "hepgen/ceiling.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "hepgen/isa.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr int kRepeats = 5;

struct MultiplyAdd {
    float (*loop)(long);
    int flops;
};

MultiplyAdd multiply_add() {
    return {HEPGEN_ACTIVE(multiply_add_loop), HEPGEN_ACTIVE(multiply_add_flops())};
}

template <class Work>
double best_seconds(int threads, const Work& work) {
    double best = 1e300;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
        const auto start = std::chrono::steady_clock::now();
        parallel_tasks(threads, threads, work);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

}  // namespace

double peak_flops(int threads) {
    constexpr long iterations = 2'000'000;
    const MultiplyAdd op = multiply_add();
    std::vector<float> kept(threads);
    const double seconds = best_seconds(threads, [&](std::size_t i) { kept[i] = op.loop(iterations); });
    return static_cast<double>(iterations) * op.flops * threads / seconds;
}

double memory_bandwidth(int threads) {
    constexpr std::size_t count = std::size_t{1} << 24;
    std::vector<float> a(count, 1.0f), b(count, 1.0f);
    const std::size_t share = count / threads;
    // a copy, and an update in place: either may be the faster way to keep the memory busy
    const double copied = best_seconds(threads, [&](std::size_t i) {
        std::memcpy(a.data() + i * share, b.data() + i * share, share * sizeof(float));
    });
    const double updated = best_seconds(threads, [&](std::size_t i) {
        float* const to = a.data() + i * share;
        const float* const from = b.data() + i * share;
        for (std::size_t k = 0; k < share; ++k) to[k] += 0.5f * from[k];
    });
    const double array = sizeof(float) * static_cast<double>(share) * threads;
    return std::max(2 * array / copied, 3 * array / updated);
}

}  // namespace hepgen
