// The Gaussian kernel sums of hepgen/mmd.hpp on a GPU. All pointers are to device memory. Nothing waits for the device,
// nothing is allocated: the functions return the size in bytes of the workspace that they want, and only do that where
// they are given none. Results have the same bits from run to run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hepgen/cuda/stream.hpp"

namespace hepgen::cuda {

template <class T>
struct MmdSample {
    const T* points;           // (rows, features)
    const T* weights;          // (rows,), null for ones
    const double* weight_sum;  // one number, null without weights
    std::int64_t rows;
};

// A part of the kernel is what Gaussians of proportional bandwidths share: coordinates (x - centre) sqrt(log2 e /
// sigma), so that k = sum_s 2^(-ratio_s |a - b|^2). With per_feature there is one part for each feature.
struct MmdKernel {
    const double* centre;        // (features,) not finite: as good as 0
    const double* sigma;         // (parts, features), or (parts, 1) with per_feature: the widest of each part
    const double* ratios;        // (parts, gaussians), none below one; null for one Gaussian
    const std::int32_t* counts;  // (parts,) how many of them are used, 0 for a part that is not; null for all
    int features, parts, gaussians;
    bool per_feature;
    bool boxes;  // whether to pass over tiles that lie out of reach of each other
};

template <class T>
struct MmdResults {
    T* value;          // null for none
    double* constant;  // the value in double, null for none
    T* x;              // (n, features), null where not wanted
    T* y;              // (m, features)
    T* wx;             // (n,)
    T* wy;             // (m,)
};

// mean k(x, x) + mean k(y, y) - cross_weight mean k(x, y); y_mean (one number) is mean k(y, y) where it is known.
// Without rows of y it is mean k(x, x) alone.
template <class T>
struct MmdTask {
    MmdSample<T> x, y;
    MmdKernel kernel;
    double cross_weight;
    const double* y_mean;
    MmdResults<T> out;
};

template <class T>
std::size_t mmd2(const MmdTask<T>& task, void* workspace, Stream stream);

// sums (n,) of the rows, and their gradients with respect to x: points (n, features), null where not wanted
template <class T>
struct GaussianSumsTask {
    MmdSample<T> x, y;
    MmdKernel kernel;
    T *sums, *points;
};

template <class T>
std::size_t gaussian_sums(const GaussianSumsTask<T>& task, void* workspace, Stream stream);

}  // namespace hepgen::cuda
