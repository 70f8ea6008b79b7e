// Sweeps over points of any number of features, in float32 and float64. A thread holds the squared distances of R rows
// to C columns in registers while the features go by, some in shared memory at a time, and then their kernel values.
#include "hepgen/cuda/mmd_sweep.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kRows = 2;       // of a thread
constexpr int kFeatures = 32;  // in shared memory at a time
constexpr int kBlockRows = kSweepThreads * kRows;

template <class T>
constexpr int kColumns = sizeof(T) == 4 ? 32 : 16;

template <class T>
struct SharedColumns {
    T points[kFeatures][kColumns<T>];
    T weights[kColumns<T>];
};

// Features `first` ... of the columns from `column` on; all threads come here together.
template <class T>
HEPGEN_FN void load_features(const Sweep<T>& sweep, int column, int first, SharedColumns<T>& to) {
    constexpr int C = kColumns<T>;
    const T* const from =
        sweep.columns.points + std::size_t(blockIdx.z) * (sweep.features + 1) * sweep.columns.stride + column;
    __syncthreads();
    for (int i = int(threadIdx.x); i < kFeatures * C; i += kSweepThreads) {
        const int f = i / C, c = i % C;
        if (first + f < sweep.features) to.points[f][c] = from[std::size_t(first + f) * sweep.columns.stride + c];
    }
    if (threadIdx.x < C)
        to.weights[threadIdx.x] = from[std::size_t(sweep.features) * sweep.columns.stride + threadIdx.x];
    __syncthreads();
}

// Minus the squared distances to one tile.
template <class T>
HEPGEN_FN void exponents(const Sweep<T>& sweep, const T* x, int column, SharedColumns<T>& shared,
                         T (&e)[kRows][kColumns<T>]) {
    for (int first = 0; first < sweep.features; first += kFeatures) {
        load_features(sweep, column, first, shared);
        const int count = sweep.features - first < kFeatures ? sweep.features - first : kFeatures;
        for (int f = 0; f < count; ++f) {
            const T* const own = x + std::size_t(first + f) * sweep.rows.stride;
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const T coordinate = own[r * kWarp];
#pragma unroll
                for (int c = 0; c < kColumns<T>; ++c) {
                    const T diff = shared.points[f][c] - coordinate;
                    e[r][c] = multiply_add(-diff, diff, e[r][c]);
                }
            }
        }
    }
}

// Adds to the rows' sums, and leaves in e the slopes times weights.
template <class T, bool Several>
HEPGEN_FN void kernel_values(const T* weights, const T* ratios, int gaussians, T (&e)[kRows][kColumns<T>],
                             double (&sums)[kRows], double times) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        T sum = 0;
#pragma unroll
        for (int c = 0; c < kColumns<T>; ++c) {
            T value = 0, slope = 0;
            if constexpr (!Several) value = slope = power_of_two(e[r][c]);
#pragma unroll 1
            for (int s = 0; Several && s < gaussians; ++s) {
                const T k = power_of_two(e[r][c] * ratios[s]);
                value += k;
                slope = multiply_add(ratios[s], k, slope);
            }
            sum = multiply_add(value, weights[c], sum);
            e[r][c] = slope * weights[c];
        }
        sums[r] = fma(times, double(sum), sums[r]);
    }
}

template <class T>
HEPGEN_FN void gradients(const Sweep<T>& sweep, const T* x, int column, SharedColumns<T>& shared,
                         const T (&k)[kRows][kColumns<T>], double* out, bool add) {
    for (int first = 0; first < sweep.features; first += kFeatures) {
        if (sweep.features > kFeatures) load_features(sweep, column, first, shared);
        const int count = sweep.features - first < kFeatures ? sweep.features - first : kFeatures;
        for (int f = 0; f < count; ++f) {
            const T* const own = x + std::size_t(first + f) * sweep.rows.stride;
            double* const to = out + std::size_t(1 + first + f) * sweep.rows.stride;
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const T coordinate = own[r * kWarp];
                T sum = 0;
#pragma unroll
                for (int c = 0; c < kColumns<T>; ++c)
                    sum = multiply_add(k[r][c], shared.points[f][c] - coordinate, sum);
                to[r * kWarp] = add ? to[r * kWarp] + double(sum) : double(sum);
            }
        }
    }
}

template <class T, SumMode M, bool Several>
HEPGEN_KERNEL(kSweepThreads, 3)
any_sweep_kernel(Sweep<T> sweep) {
    HEPGEN_SHARED SharedColumns<T> shared;
    const int part = int(blockIdx.z), row = int(blockIdx.x) * kBlockRows + warp() * (kWarp * kRows) + lane();
    const int gaussians = sweep.used(part), outputs = sweep.outputs();
    T* const ratios = shared_memory<T>();
    for (int s = int(threadIdx.x); Several && s < gaussians; s += kSweepThreads)
        ratios[s] = T(sweep.ratios[part * sweep.gaussians + s]);
    const T* const x = sweep.rows.points + std::size_t(part) * (sweep.features + 1) * sweep.rows.stride + row;
    const std::size_t slice = std::size_t(part) * sweep.splits + blockIdx.y;
    double* const out = M == SumMode::value ? nullptr : sweep.out + slice * outputs * sweep.rows.stride + row;

    const Tiles range = tiles_of(sweep, kBlockRows, kColumns<T>);
    double sums[kRows] = {};
    for (int t = range.begin; t < range.end; ++t) {
        T e[kRows][kColumns<T>] = {};
        exponents(sweep, x, t * kColumns<T>, shared, e);
        kernel_values<T, Several>(shared.weights, ratios, gaussians, e, sums, t < range.twice ? 1 : 2);
        if constexpr (M == SumMode::gradients) gradients(sweep, x, t * kColumns<T>, shared, e, out, t > range.begin);
    }
    if constexpr (M == SumMode::value) {
        HEPGEN_SHARED double scratch[kWarp];
        double total = 0;
        for (int r = 0; r < kRows; ++r)
            total += sums[r] * double(x[std::size_t(sweep.features) * sweep.rows.stride + r * kWarp]);
        total = block_sum(total, scratch);
        if (threadIdx.x == 0) sweep.values[slice * sweep.row_blocks + blockIdx.x] = total;
    } else {
        for (int r = 0; r < kRows; ++r) {
            out[r * kWarp] = sums[r];
            const bool untouched = range.begin >= range.end;
            for (int o = 1; untouched && o < outputs; ++o) out[std::size_t(o) * sweep.rows.stride + r * kWarp] = 0;
        }
    }
}

template <class T, SumMode M>
void run(const Sweep<T>& sweep, Stream stream) {
    const Grid grid{unsigned(sweep.row_blocks), unsigned(sweep.splits), unsigned(sweep.parts)};
    const auto kernel = sweep.gaussians > 1 ? any_sweep_kernel<T, M, true> : any_sweep_kernel<T, M, false>;
    launch(kernel, grid, kSweepThreads, sizeof(T) * sweep.gaussians, stream, sweep);
}

}  // namespace

template <class T>
int any_sweep_rows() {
    return kBlockRows;
}

template <class T>
void run_any_sweep(const Sweep<T>& sweep, Stream stream) {
    switch (sweep.mode) {
        case SumMode::value:
            return run<T, SumMode::value>(sweep, stream);
        case SumMode::sums:
            return run<T, SumMode::sums>(sweep, stream);
        case SumMode::gradients:
            return run<T, SumMode::gradients>(sweep, stream);
    }
}

template int any_sweep_rows<float>();
template int any_sweep_rows<double>();
template void run_any_sweep<float>(const Sweep<float>&, Stream);
template void run_any_sweep<double>(const Sweep<double>&, Stream);

}  // namespace hepgen::cuda
