// What the exact and the binned density estimates share: the choice of functions, the cutting of samples into chunks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "hepgen/aligned.hpp"
#include "hepgen/kde.hpp"
#include "hepgen/kde_tile.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {

inline constexpr double kSqrt2 = 1.4142135623730950488, kSqrtPi = 1.7724538509055160273;
inline constexpr std::size_t kSerialNumbers = 30'000;  // below so many samples a thread costs more than it brings
inline constexpr std::size_t kGatherRows = 2048;       // rows of one task of a gradient
inline constexpr std::size_t kMostChunks = 32;         // partial sums of one feature

template <class T>
KdeFunctions<T> kde_functions() {
    return HEPGEN_ACTIVE(kde_functions(T{}));
}

// Runs of equal length, each with partial sums of its own; few where the sums are long.
struct Chunks {
    std::size_t rows, each, count;

    Chunks(std::size_t rows_, std::size_t sums) : rows(rows_) {
        const std::size_t least =
            std::max<std::size_t>({std::size_t(8192), 2 * sums, (rows + kMostChunks - 1) / kMostChunks});
        count = std::max<std::size_t>(1, (rows + least - 1) / least);
        each = (rows + count - 1) / count;
    }
    std::size_t begin(std::size_t c) const { return std::min(rows, c * each); }
    std::size_t size(std::size_t c) const { return begin(c + 1) - begin(c); }
};

template <class T>
Run<T> make_run(const KdeInput<T>& in, std::size_t f, std::size_t first, std::size_t count) {
    Run<T> run{};
    run.x = in.x + first * in.features + f;
    run.weights = in.weights ? in.weights + first : nullptr;
    run.stride = in.features;
    run.count = count;
    return run;
}

template <class T>
int threads_for(const KdeInput<T>& in, int threads) {
    return in.rows * in.features < kSerialNumbers ? 1 : std::max(threads, 1);
}

// 1 / (sum of weights * b * sqrt(2 pi)), per feature
template <class T>
std::vector<double> norms(const KdeInput<T>& in, double weight_sum) {
    std::vector<double> norm(in.features);
    for (std::size_t f = 0; f < in.features; ++f) norm[f] = 1 / (weight_sum * in.bandwidth[f] * (kSqrt2 * kSqrtPi));
    return norm;
}

template <class T>
double weight_sum(const KdeInput<T>& in) {
    return in.weights ? kde_functions<T>().sum(in.weights, in.rows) : static_cast<double>(in.rows);
}

// Counts of finished tasks, which later tasks of the same loop wait for.
class Gates {
  public:
    explicit Gates(std::size_t count) : gates_(std::make_unique<std::atomic<unsigned>[]>(count)) {
        for (std::size_t i = 0; i < count; ++i) gates_[i] = 0;
    }
    void pass(std::size_t gate) { gates_[gate].fetch_add(1, std::memory_order_release); }
    void wait(std::size_t gate, std::size_t target) const { wait_until(gates_[gate], static_cast<unsigned>(target)); }

  private:
    std::unique_ptr<std::atomic<unsigned>[]> gates_;
};

// The gradients of a run of rows: `slopes(f, run, to)` adds those of one feature. `correction` is what every weight
// gets because the density is normalised to their sum.
template <class T, class Slopes>
void gather_rows(const KdeInput<T>& in, std::size_t first, std::size_t count, double correction, KdeGradients<T> out,
                 Slopes slopes) {
    double weights[kGatherRows];
    std::fill(weights, weights + count, correction);
    for (std::size_t f = 0; f < in.features; ++f) {
        RunSlopes<T> to{};
        to.stride = in.features;
        to.points = out.x ? out.x + first * in.features + f : nullptr;
        to.weights = out.weights ? weights : nullptr;
        slopes(f, make_run(in, f, first, count), to);
    }
    for (std::size_t i = 0; out.weights && i < count; ++i) out.weights[first + i] = static_cast<T>(weights[i]);
}

// -sum(slope * density) / sum of weights
template <class T>
double weight_correction(const KdeInput<T>& in, const T* density, const T* slope, double weight_total) {
    double sum = 0;
    for (std::size_t i = 0; i < in.features * in.points; ++i) sum += double(slope[i]) * double(density[i]);
    return -sum / weight_total;
}

}  // namespace hepgen
