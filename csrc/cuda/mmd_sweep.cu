// Sweeps in float32 over points of a few features. A thread holds the coordinates of R rows in registers; columns come
// through shared memory, one broadcast read for all rows of a warp. Sums leave float for double after every tile.
#include "hepgen/cuda/mmd_sweep.hpp"

namespace hepgen::cuda {
namespace {

constexpr int rows_at_once(int features, SumMode mode) {
    return mode == SumMode::gradients && features > 3 ? 4 : 8;
}

template <int Width>
HEPGEN_FN void read_point(const float* from, float (&to)[Width]) {
    if constexpr (Width % 4 == 0) {
#pragma unroll
        for (int i = 0; i < Width; i += 4) {
            const float4 v = *reinterpret_cast<const float4*>(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else {
        const float2 v = *reinterpret_cast<const float2*>(from);
        to[0] = v.x, to[1] = v.y;
    }
}

// Whether no point of one box lies within reach of one of the other.
template <int D>
HEPGEN_FN bool apart(const float* a, const float* b) {
    float squares = 0;
#pragma unroll
    for (int f = 0; f < D; ++f) {
        const float above = __ldg(a + f) - __ldg(b + D + f), below = __ldg(b + f) - __ldg(a + D + f);
        const float gap = above > below ? above : below;
        squares += gap > 0 ? gap * gap : 0.0f;
    }
    return squares > kReachSquared;
}

template <int D, int R>
HEPGEN_FN bool out_of_reach(const Sweep<float>& sweep, int row, int tile) {
    if (!sweep.rows.boxes) return false;
    const float* const column =
        sweep.columns.boxes + (std::size_t(blockIdx.z) * (sweep.columns.stride / kSweepTile) + tile) * (2 * D);
    const float* const first =
        sweep.rows.boxes + (std::size_t(blockIdx.z) * (sweep.rows.stride / kSweepTile) + row / kSweepTile) * (2 * D);
    bool none = true;
    for (int b = 0; b < R * kWarp / kSweepTile; ++b) none = none && apart<D>(first + b * 2 * D, column);
    return none;
}

// The sums of a thread's rows over one tile.
template <int D, int R, SumMode M>
struct RowSums {
    float kernel[R] = {};
    float slope[M == SumMode::gradients ? R : 1][D] = {};
};

template <int D, int R, SumMode M, bool Several>
HEPGEN_FN void add_tile(RowSums<D, R, M>& sums, const float (&x)[R][D], const float* tile, const float* ratios,
                        int gaussians) {
    constexpr int width = packed_width(D);
#pragma unroll 2
    for (int j = 0; j < kSweepTile; ++j) {
        float y[width];
        read_point<width>(tile + j * width, y);
        const float weight = y[width - 1];
        float diff[R][D], exponent[R], value[R], slope[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
            diff[r][0] = y[0] - x[r][0];
            exponent[r] = -(diff[r][0] * diff[r][0]);
#pragma unroll
            for (int f = 1; f < D; ++f) {
                diff[r][f] = y[f] - x[r][f];
                exponent[r] = fmaf(-diff[r][f], diff[r][f], exponent[r]);
            }
            if constexpr (!Several) value[r] = slope[r] = exp2_fast(exponent[r]);
            if constexpr (Several) value[r] = slope[r] = 0;
        }
        for (int s = 0; Several && s < gaussians; ++s) {
            const float ratio = ratios[s];
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const float k = exp2_fast(exponent[r] * ratio);
                value[r] += k;
                slope[r] = fmaf(ratio, k, slope[r]);
            }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            sums.kernel[r] = fmaf(value[r], weight, sums.kernel[r]);
            if constexpr (M == SumMode::gradients) {
                const float factor = slope[r] * weight;
#pragma unroll
                for (int f = 0; f < D; ++f) sums.slope[r][f] = fmaf(factor, diff[r][f], sums.slope[r][f]);
            }
        }
    }
}

template <int D>
HEPGEN_FN void load_tile(const Sweep<float>& sweep, int tile, float* to) {
    constexpr int width = packed_width(D);
    const std::size_t first = std::size_t(blockIdx.z) * sweep.columns.stride + std::size_t(tile) * kSweepTile;
    const float* const from = sweep.columns.points + first * width;
    for (int i = int(threadIdx.x) * 4; i < kSweepTile * width; i += kSweepThreads * 4) copy_async<16>(to + i, from + i);
    copy_async_commit();
}

// Sums over tiles in double: of all rows together, or of each thread's own.
template <int D, int R, SumMode M>
struct Kept {
    double value = 0;
    double* rows;      // (outputs, R, threads) in shared memory
    float weights[R];  // of the rows

    HEPGEN_FN double& row(int output, int r) { return rows[(output * R + r) * kSweepThreads + int(threadIdx.x)]; }

    HEPGEN_FN void add(const RowSums<D, R, M>& sums, double times) {
        double total = 0;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if constexpr (M == SumMode::value) {
                total = fma(double(sums.kernel[r]), double(weights[r]), total);
            } else {
                row(0, r) += double(sums.kernel[r]);
            }
            if constexpr (M == SumMode::gradients) {
#pragma unroll
                for (int f = 0; f < D; ++f) row(1 + f, r) += double(sums.slope[r][f]);
            }
        }
        if constexpr (M == SumMode::value) value = fma(times, total, value);
    }
};

template <int D, int R, SumMode M, bool Several>
HEPGEN_KERNEL(kSweepThreads, kSweepBlocks)
sweep_kernel(Sweep<float> sweep) {
    constexpr int width = packed_width(D), block_rows = kSweepThreads * R, tile_size = kSweepTile * width;
    const int outputs = sweep.outputs(), part = int(blockIdx.z);
    Kept<D, R, M> kept;
    kept.rows = shared_memory<double>();
    float* const tiles = reinterpret_cast<float*>(kept.rows + (M == SumMode::value ? 0 : outputs * R * kSweepThreads));
    float* const ratios = tiles + 2 * tile_size;
    const int first_row = int(blockIdx.x) * block_rows + warp() * (kWarp * R), row = first_row + lane();

    float x[R][D];
    for (int r = 0; r < R; ++r) {
        float point[width];
        read_point<width>(sweep.rows.points + (std::size_t(part) * sweep.rows.stride + row + r * kWarp) * width, point);
#pragma unroll
        for (int f = 0; f < D; ++f) x[r][f] = point[f];
        kept.weights[r] = point[width - 1];
        for (int o = 0; M != SumMode::value && o < outputs; ++o) kept.row(o, r) = 0;
    }
    const int gaussians = Several ? sweep.used(part) : 1;
    for (int s = int(threadIdx.x); Several && s < gaussians; s += kSweepThreads) {
        ratios[s] = float(sweep.ratios[part * sweep.gaussians + s]);
    }

    const Tiles range = tiles_of(sweep, block_rows, kSweepTile);
    if (range.begin < range.end) load_tile<D>(sweep, range.begin, tiles);
    for (int t = range.begin; t < range.end; ++t) {
        const int buffer = (t - range.begin) & 1;
        if (t + 1 < range.end) {
            load_tile<D>(sweep, t + 1, tiles + (1 - buffer) * tile_size);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        if (!out_of_reach<D, R>(sweep, first_row, t)) {
            RowSums<D, R, M> sums;
            add_tile<D, R, M, Several>(sums, x, tiles + buffer * tile_size, ratios, gaussians);
            kept.add(sums, t < range.twice ? 1 : 2);
        }
        __syncthreads();
    }

    const std::size_t slice = std::size_t(part) * sweep.splits + blockIdx.y;
    if constexpr (M == SumMode::value) {
        HEPGEN_SHARED double scratch[kWarp];
        const double total = block_sum(kept.value, scratch);
        if (threadIdx.x == 0) sweep.values[slice * sweep.row_blocks + blockIdx.x] = total;
    } else {
        for (int o = 0; o < outputs; ++o) {
            double* const to = sweep.out + (slice * outputs + o) * sweep.rows.stride + row;
            for (int r = 0; r < R; ++r) to[r * kWarp] = kept.row(o, r);
        }
    }
}

template <int D, SumMode M, bool Several>
void run(const Sweep<float>& sweep, Stream stream) {
    constexpr int R = rows_at_once(D, M);
    const std::size_t kept = M == SumMode::value ? 0 : sizeof(double) * sweep.outputs() * R * kSweepThreads;
    const std::size_t tiles = sizeof(float) * (2 * kSweepTile * packed_width(D) + (Several ? sweep.gaussians : 0));
    launch(sweep_kernel<D, R, M, Several>, {unsigned(sweep.row_blocks), unsigned(sweep.splits), unsigned(sweep.parts)},
           kSweepThreads, kept + tiles, stream, sweep);
}

template <int D, bool Several>
void run_mode(const Sweep<float>& sweep, Stream stream) {
    switch (sweep.mode) {
        case SumMode::value:
            return run<D, SumMode::value, Several>(sweep, stream);
        case SumMode::sums:
            return run<D, SumMode::sums, Several>(sweep, stream);
        case SumMode::gradients:
            return run<D, SumMode::gradients, Several>(sweep, stream);
    }
}

template <int D>
void run_features(const Sweep<float>& sweep, Stream stream) {
    sweep.gaussians > 1 ? run_mode<D, true>(sweep, stream) : run_mode<D, false>(sweep, stream);
}

}  // namespace

template <class T>
int sweep_rows(int features, SumMode mode) {
    return made_for<T>(features) ? kSweepThreads * rows_at_once(features, mode) : any_sweep_rows<T>();
}

template <>
void run_sweep(const Sweep<double>& sweep, Stream stream) {
    run_any_sweep(sweep, stream);
}

template <>
void run_sweep(const Sweep<float>& sweep, Stream stream) {
    switch (made_for<float>(sweep.features)) {
        case 1:
            return run_features<1>(sweep, stream);
        case 2:
            return run_features<2>(sweep, stream);
        case 3:
            return run_features<3>(sweep, stream);
        case 4:
            return run_features<4>(sweep, stream);
        case 5:
            return run_features<5>(sweep, stream);
        case 6:
            return run_features<6>(sweep, stream);
        case 7:
            return run_features<7>(sweep, stream);
        case 8:
            return run_features<8>(sweep, stream);
        default:
            return run_any_sweep(sweep, stream);
    }
}

template int sweep_rows<float>(int, SumMode);
template int sweep_rows<double>(int, SumMode);

}  // namespace hepgen::cuda
