// Every sample meets every grid point. A value's thread holds points and sees the samples pass through shared memory,
// that of a gradient holds samples and sees the points. In float the differences are made from both halves of a grid
// point, and sums are carried on in double after so many terms.
#include <algorithm>
#include <limits>

#include "hepgen/cuda/device.hpp"
#include "hepgen/cuda/kde.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kThreads = 128, kHeld = 4;  // points or samples that a thread holds
constexpr int kPassing = 256, kRun = 32;  // points or samples in shared memory, and those of one sum in T
constexpr std::int64_t kBlocksPerUnit = 16;
constexpr double kSqrt2Pi = 2.5066282746310005;

template <class T>
struct Unit {  // kernel = exp2(-(d * scale)^2) in float, exp(-(d * scale)^2) in double
    T scale;
    double norm;  // 1 / (sum of weights * b * sqrt(2 pi)), NaN for a bandwidth that is not good

    HEPGEN_FN Unit(const KdeSample<T>& sample, double b) {
        const double inverse = 1 / b, largest = double(std::numeric_limits<T>::max());
        const double exact =
            inverse * (sizeof(T) == 4 ? 0.84932180028801905 : 0.70710678118654752);  // sqrt(log2(e) / 2), sqrt(1 / 2)
        const bool good =
            b > 0 && b < std::numeric_limits<double>::infinity() && inverse < std::numeric_limits<double>::infinity();
        scale = T(exact < largest ? exact : largest);
        const double total = sample.weights ? *sample.weight_sum : double(sample.rows);
        norm = good ? 1 / (total * b * kSqrt2Pi) : std::numeric_limits<double>::quiet_NaN();
    }

    HEPGEN_FN T kernel(T d) const {
        const T y = d * scale;
        if constexpr (sizeof(T) == 4) {
            return exp2_fast(-y * y);
        } else {
            return exp(-y * y);
        }
    }
};

template <class T>
struct Point {
    T high, low;

    HEPGEN_FN explicit Point(double g) : high(T(g)), low(T(g - double(high))) {}
    HEPGEN_FN T from(T x) const {
        if constexpr (sizeof(T) == 4) {
            return (high - x) + low;
        } else {
            return high - x;
        }
    }
};

HEPGEN_FN double grid_at(const KdeGrid& grid, int features, int g, int f) {
    return grid.shared ? grid.grid[g] : grid.grid[std::int64_t(g) * features + f];
}

// partial: (splits, features, points)
template <class T>
HEPGEN_KERNEL(kThreads, 4)
exact_kernel(KdeSample<T> sample, KdeGrid grid, std::int64_t chunk, double* partial) {
    HEPGEN_SHARED T xs[kPassing];
    HEPGEN_SHARED T ws[kPassing];
    const int f = int(blockIdx.y), tid = int(threadIdx.x), first = int(blockIdx.x) * kThreads * kHeld + tid;
    const Unit<T> unit(sample, grid.bandwidth[f]);
    T high[kHeld], low[kHeld];
    double sums[kHeld] = {};
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
        const int g = first + k * kThreads;
        const Point<T> point(g < grid.points ? grid_at(grid, sample.features, g, f) : 0.0);
        high[k] = point.high;
        low[k] = point.low;
    }
    const std::int64_t begin = std::int64_t(blockIdx.z) * chunk,
                       end = begin + chunk < sample.rows ? begin + chunk : sample.rows;
    for (std::int64_t row = begin; row < end; row += kPassing) {
        __syncthreads();
        for (int i = tid; i < kPassing; i += kThreads) {
            const bool there = row + i < end;
            xs[i] = there ? sample.x[(row + i) * sample.features + f] : T(0);
            ws[i] = !there ? T(0) : sample.weights ? sample.weights[row + i] : T(1);
        }
        __syncthreads();
        for (int run = 0; run < kPassing; run += kRun) {
            T part[kHeld] = {};
#pragma unroll 4
            for (int i = run; i < run + kRun; ++i) {
                const T x = xs[i], w = ws[i];
#pragma unroll
                for (int k = 0; k < kHeld; ++k) {
                    const T d = sizeof(T) == 4 ? (high[k] - x) + low[k] : high[k] - x;
                    part[k] = fma(w, unit.kernel(d), part[k]);
                }
            }
#pragma unroll
            for (int k = 0; k < kHeld; ++k) sums[k] += double(part[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
        const int g = first + k * kThreads;
        if (g < grid.points) partial[(std::int64_t(blockIdx.z) * sample.features + f) * grid.points + g] = sums[k];
    }
}

template <class T>
HEPGEN_KERNEL(kThreads, 4)
sum_kernel(KdeSample<T> sample, KdeGrid grid, int splits, const double* partial, T* density) {
    const std::int64_t count = std::int64_t(sample.features) * grid.points,
                       i = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    double sum = 0;
    for (int s = 0; s < splits; ++s) sum += partial[s * count + i];
    density[i] = T(sum * Unit<T>(sample, grid.bandwidth[i / grid.points]).norm);
}

template <class T, bool with_values>
HEPGEN_KERNEL(kThreads, 4)
gradient_kernel(KdeSample<T> sample, KdeGrid grid, const T* slope, KdeGradients<T> out) {
    constexpr int held = kHeld / 2;
    HEPGEN_SHARED T highs[kPassing];
    HEPGEN_SHARED T lows[kPassing];
    HEPGEN_SHARED T slopes[kPassing];
    const int f = int(blockIdx.y), tid = int(threadIdx.x);
    const std::int64_t first = std::int64_t(blockIdx.x) * kThreads * held + tid;
    const double b = grid.bandwidth[f];
    const Unit<T> unit(sample, b);
    T x[held];
    double points[held] = {}, values[held] = {};
#pragma unroll
    for (int k = 0; k < held; ++k) {
        const std::int64_t row = first + k * kThreads;
        x[k] = row < sample.rows ? sample.x[row * sample.features + f] : T(0);
    }
    for (int begin = 0; begin < grid.points; begin += kPassing) {
        __syncthreads();
        for (int i = tid; i < kPassing; i += kThreads) {
            const int g = begin + i;
            const Point<T> point(g < grid.points ? grid_at(grid, sample.features, g, f) : 0.0);
            highs[i] = point.high;
            lows[i] = point.low;
            slopes[i] = g < grid.points ? slope[std::int64_t(f) * grid.points + g] : T(0);
        }
        __syncthreads();
        for (int run = 0; run < kPassing; run += kRun) {
            T part[held] = {}, value[held] = {};
#pragma unroll 4
            for (int i = run; i < run + kRun; ++i) {
                const T high = highs[i], low = lows[i], s = slopes[i];
#pragma unroll
                for (int k = 0; k < held; ++k) {
                    const T d = sizeof(T) == 4 ? (high - x[k]) + low : high - x[k];
                    const T term = s * unit.kernel(d);
                    part[k] = fma(term, d, part[k]);
                    if (with_values) value[k] += term;
                }
            }
#pragma unroll
            for (int k = 0; k < held; ++k) {
                points[k] += double(part[k]);
                values[k] += double(value[k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < held; ++k) {
        const std::int64_t row = first + k * kThreads, at = row * sample.features + f;
        if (row >= sample.rows) continue;
        const double w = sample.weights ? double(sample.weights[row]) : 1.0;
        const bool beyond = fabs(x[k]) == std::numeric_limits<T>::infinity();  // 0 * infinity
        if (out.x) out.x[at] = beyond ? T(0) : T(points[k] * unit.norm / b / b * w);
        if (with_values) out.values[at] = T(values[k] * unit.norm);
    }
}

unsigned tiles(std::int64_t count, std::int64_t tile) {
    return unsigned((count + tile - 1) / tile);
}

struct Splits {
    std::int64_t chunk;
    unsigned count;
};

// Enough blocks for the device, of no less than a few rounds each.
template <class T>
Splits splits_of(const KdeSample<T>& sample, const KdeGrid& grid) {
    const std::int64_t across = std::int64_t(tiles(grid.points, kThreads * kHeld)) * sample.features;
    const std::int64_t wanted =
        std::clamp<std::int64_t>(sm_count() * kBlocksPerUnit / across, 1, tiles(sample.rows, 2 * kPassing));
    const std::int64_t chunk = (tiles(sample.rows, wanted) + kPassing - 1) / kPassing * kPassing;
    return {chunk, tiles(sample.rows, chunk)};
}

}  // namespace

template <class T>
std::size_t kde_exact_workspace(const KdeSample<T>& sample, const KdeGrid& grid) {
    return std::size_t(splits_of(sample, grid).count) * sample.features * grid.points;
}

template <class T>
void kde_exact(const KdeSample<T>& sample, const KdeGrid& grid, double* workspace, T* density, Stream stream) {
    const Splits splits = splits_of(sample, grid);
    launch(exact_kernel<T>, Grid{tiles(grid.points, kThreads * kHeld), unsigned(sample.features), splits.count},
           kThreads, 0, stream, sample, grid, splits.chunk, workspace);
    launch(sum_kernel<T>, Grid{tiles(std::int64_t(sample.features) * grid.points, kThreads), 1, 1}, kThreads, 0, stream,
           sample, grid, int(splits.count), workspace, density);
}

template <class T>
void kde_exact_gradients(const KdeSample<T>& sample, const KdeGrid& grid, const T* slope, KdeGradients<T> out,
                         Stream stream) {
    launch(out.values ? gradient_kernel<T, true> : gradient_kernel<T, false>,
           Grid{tiles(sample.rows, kThreads * kHeld / 2), unsigned(sample.features), 1}, kThreads, 0, stream, sample,
           grid, slope, out);
}

#define HEPGEN_INSTANTIATE(T)                                                             \
    template std::size_t kde_exact_workspace<T>(const KdeSample<T>&, const KdeGrid&);     \
    template void kde_exact<T>(const KdeSample<T>&, const KdeGrid&, double*, T*, Stream); \
    template void kde_exact_gradients<T>(const KdeSample<T>&, const KdeGrid&, const T*, KdeGradients<T>, Stream);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen::cuda
