// A sweep: every row of one packed sample against every column of another, the kernel summed while it is made.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hepgen/cuda/device.hpp"
#include "hepgen/host_device.hpp"

namespace hepgen::cuda {

inline constexpr int kSweepThreads = 128;
inline constexpr int kSweepTile = 128;  // columns in shared memory at a time, and points in a box
inline constexpr int kSweepPad = 1024;  // packed samples are filled up to a multiple of it with points of no weight
inline constexpr int kSweepBlocks = 4;  // that run on a multiprocessor together
inline constexpr float kReachSquared = 130;  // from there on every value of the kernel is zero

enum class SumMode {
    value,      // sum_ij wx_i wy_j k_ij alone
    sums,       // sum_j wy_j k_ij for every row
    gradients,  // and sum_j wy_j slope_ij (y_j - x_i), slope = sum_s ratio_s 2^(-ratio_s ...)
};

// Points lie by rows, (parts, stride, width) with the weight last, where a kernel is made for their number of features,
// else by features, (parts, features + 1, stride) with the weights last.
template <class T>
struct PackedPoints {
    T* points;
    T* boxes;  // (parts, stride / kSweepTile, 2, features): lower and upper corners; null for none
    int rows, stride;
};

// The number of features that a kernel is made for; 0 stands for any.
template <class T>
constexpr int made_for(int features) {
    return std::is_same_v<T, float> && features <= 8 ? features : 0;
}
constexpr int packed_width(int features) {
    return features == 1 ? 2 : (features + 4) / 4 * 4;
}

template <class T>
struct Sweep {
    PackedPoints<T> rows, columns;
    const double* ratios;        // (parts, gaussians), null for one Gaussian
    const std::int32_t* counts;  // (parts,), null where all Gaussians are used
    int parts, gaussians, features;
    SumMode mode;
    bool symmetric;  // rows and columns are the same, and pairs may be counted twice instead of made twice
    int row_blocks, splits;
    double* values;  // SumMode::value: (parts, splits, row_blocks)
    double* out;     // else (parts, splits, outputs, rows.stride): the sums, then the gradient of each feature

    HEPGEN_HD int used(int part) const { return counts ? counts[part] : gaussians; }
    HEPGEN_HD int outputs() const { return mode == SumMode::gradients ? features + 1 : 1; }
};

// Rows that a block of a sweep takes.
template <class T>
int sweep_rows(int features, SumMode mode);

// The same for any number of features, in mmd_sweep_any.cu.
template <class T>
int any_sweep_rows();
template <class T>
void run_any_sweep(const Sweep<T>& sweep, Stream stream);

template <class T>
void run_sweep(const Sweep<T>& sweep, Stream stream);

// --- what the kernels share

HEPGEN_FN float multiply_add(float a, float b, float c) {
    return fmaf(a, b, c);
}
HEPGEN_FN double multiply_add(double a, double b, double c) {
    return fma(a, b, c);
}
HEPGEN_FN float power_of_two(float x) {
    return exp2_fast(x);
}
HEPGEN_FN double power_of_two(double x) {
    return exp2(x);
}

// The tiles of columns that a block works on; those from `twice` on count twice.
struct Tiles {
    int begin, end, twice;
};

template <class T>
HEPGEN_FN Tiles tiles_of(const Sweep<T>& sweep, int block_rows, int tile) {
    const int all = (sweep.columns.rows + tile - 1) / tile;
    const int first = sweep.symmetric ? int(blockIdx.x) * (block_rows / tile) : 0;
    const int each = (all - first + sweep.splits - 1) / sweep.splits;
    const int begin = first + each * int(blockIdx.y), end = begin + each < all ? begin + each : all;
    const bool none = begin >= all || sweep.used(int(blockIdx.z)) == 0;
    return {begin, none ? begin : end, sweep.symmetric ? first + block_rows / tile : all};
}

}  // namespace hepgen::cuda
