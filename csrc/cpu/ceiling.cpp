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
    switch (active_isa()) {
#ifdef HEPGEN_X86
        case Isa::avx512:
            return {avx512::multiply_add_loop, avx512::multiply_add_flops()};
        case Isa::avx2:
            return {avx2::multiply_add_loop, avx2::multiply_add_flops()};
#endif
        default:
            return {baseline::multiply_add_loop, baseline::multiply_add_flops()};
    }
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

double copy_bandwidth(int threads) {
    constexpr std::size_t bytes = std::size_t{1} << 27;
    std::vector<char> from(bytes, 1), to(bytes, 0);
    const std::size_t share = bytes / threads;
    const double seconds = best_seconds(
        threads, [&](std::size_t i) { std::memcpy(to.data() + i * share, from.data() + i * share, share); });
    return 2.0 * static_cast<double>(share) * threads / seconds;
}

}  // namespace hepgen
