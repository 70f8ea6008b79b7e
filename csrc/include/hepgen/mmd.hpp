// Sums over the Gaussian kernel matrix k_ij = exp(-sum_f (x_if - y_jf)^2 / sigma_f) of two samples, and the squared
// maximum mean discrepancy made of three of them. The matrix itself is never stored: memory is O(rows + columns).
//
// Every result depends on the numbers and the instruction set alone, whatever the number of threads.
#pragma once

#include <cstddef>
#include <optional>

#include "hepgen/packed.hpp"

namespace hepgen {

// The kernel is the mean of `count` Gaussians.
struct Bandwidths {
    const double* sigma;  // (count, features)
    int count;
};

enum class Grouping { automatic, never, always };  // of points that lie close together, to skip pairs that lie apart

struct KernelOptions {
    Bandwidths bandwidths;
    bool per_feature;  // the mean over the features of what each gives alone, instead of the joint kernel
    Grouping grouping;
    int threads;
};

// Where results go; what is null is not computed.
template <class T>
struct KernelGradients {
    T* sums;    // (rows,)            sum_j wy_j k_ij
    T* points;  // (rows, features)   gradient of those sums with respect to x_i
};

// All row sums of the kernel matrix of x against y.
template <class T>
void gaussian_sums(Sample<T> x, Sample<T> y, const KernelOptions& options, KernelGradients<T> out);

// sum_ij w_i w_j k(x_i, x_j) / (sum_i w_i)^2
template <class T>
double kernel_mean(Sample<T> x, const KernelOptions& options);

template <class T>
struct MmdGradients {
    T* x;   // (n, features), null where not wanted
    T* y;   // (m, features)
    T* wx;  // (n,)
    T* wy;  // (m,)
};

// Gretton et al., J. Mach. Learn. Res. 13 (2012) 723, eq. 5 (the biased estimator), with weights:
//   mean k(x, x) + mean k(y, y) - cross_weight mean k(x, y)
// y_mean: kernel_mean of y where it is known.
template <class T>
double mmd2(Sample<T> x, Sample<T> y, const KernelOptions& options, double cross_weight, std::optional<double> y_mean,
            MmdGradients<T> out);

}  // namespace hepgen
