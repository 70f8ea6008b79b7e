// The density estimates of hepgen/kde.hpp on a GPU. All pointers are to device memory. Nothing waits for the device and
// nothing is allocated or read back: grids, bandwidths and weights may have been made by the kernels before. Sums that
// many threads share are integers, so that their order does not matter.
//
// A grid that is not uniform and increasing, a bandwidth that is not positive and finite, and one that reaches further
// than `pad` steps make the feature NaN.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hepgen/cuda/stream.hpp"

namespace hepgen::cuda {

template <class T>
struct KdeSample {
    const T* x;                // (rows, features)
    const T* weights;          // (rows,), null for ones
    const double* weight_sum;  // of the weights, with them
    const T* weight_peak;      // their largest absolute value
    std::int64_t rows;
    int features;
};

struct KdeGrid {
    const double* grid;  // (points, features), or (points,) where it is shared
    int points;
    bool shared;
    const double* bandwidth;  // (features,)
    int pad;                  // binned: bins on either side of the grid
};

inline constexpr int kAxisNumbers = 8;  // doubles of a feature's axis

// What is null is not wanted. values: (rows, features), of the field that a sample feels; a row's sum is what its
// weight gets, beside what it gets because densities are normalised.
template <class T>
struct KdeGradients {
    T *x, *values;
};

// Bins of a feature: of the grid, of its margins, and a last one that tells of NaN.
inline std::int64_t kde_bins(const KdeGrid& grid) {
    return std::int64_t(grid.points) + 2 * std::int64_t(grid.pad) + 1;
}

// density, slope: (features, points); axes: (features, kAxisNumbers); bins: (features, kde_bins + 1).
template <class T>
void kde_binned(const KdeSample<T>& sample, const KdeGrid& grid, double* axes, std::int64_t* bins, T* density,
                Stream stream);

// tables: (2, features, kde_bins)
template <class T>
void kde_binned_gradients(const KdeSample<T>& sample, const KdeGrid& grid, const T* slope, double* axes, T* tables,
                          KdeGradients<T> out, Stream stream);

// target: (features, points). value: of the divergence; slope: its derivative with respect to the density.
template <class T>
void kde_divergence(const KdeGrid& grid, int features, const double* axes, const T* density, const double* target,
                    double floor, T* value, T* slope, Stream stream);

// Doubles of the workspace.
template <class T>
std::size_t kde_exact_workspace(const KdeSample<T>& sample, const KdeGrid& grid);
template <class T>
void kde_exact(const KdeSample<T>& sample, const KdeGrid& grid, double* workspace, T* density, Stream stream);
template <class T>
void kde_exact_gradients(const KdeSample<T>& sample, const KdeGrid& grid, const T* slope, KdeGradients<T> out,
                         Stream stream);

}  // namespace hepgen::cuda
