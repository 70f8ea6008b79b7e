// Gaussian kernel density estimates of the marginals of a sample, all features at once:
//   density[f][g] = sum_i w_i exp(-(grid_gf - x_if)^2 / (2 b_f^2)) / (sum_i w_i b_f sqrt(2 pi)).
//
// Results depend on the numbers and the instruction set alone: chunks of samples are fixed by the sizes, each has its
// own partial sums, and these are added in chunk order, whatever the number of threads.
#pragma once

#include <cstddef>

namespace hepgen {

template <class T>
struct KdeInput {
    const T* x;        // (rows, features)
    const T* weights;  // (rows,), null for ones
    std::size_t rows, features;
    const double* grid;  // (points, features), or (points,) where it is shared
    std::size_t points;
    bool shared;
    const double* bandwidth;  // (features,)

    double at(std::size_t g, std::size_t f) const { return shared ? grid[g] : grid[g * features + f]; }
};

// What is null is not computed.
template <class T>
struct KdeGradients {
    T* x;        // (rows, features)
    T* weights;  // (rows,)
};

// exact: within 1e-9 (float) or 1e-16 (double) of the density that one sample makes at its peak, beside rounding.
// density: (features, points).
template <class T>
void kde_exact(const KdeInput<T>& in, int threads, T* density);

// Gradient of sum(slope * density); slope and density are (features, points).
template <class T>
void kde_exact_gradients(const KdeInput<T>& in, const T* density, const T* slope, int threads, KdeGradients<T> out);

// binned: every sample shared between the two nearest points of the grid, then convolved with the kernel.
// The grid must be uniform and increasing: std::invalid_argument otherwise.
template <class T>
void kde_binned(const KdeInput<T>& in, int threads, T* density);
template <class T>
void kde_binned_gradients(const KdeInput<T>& in, const T* density, const T* slope, int threads, KdeGradients<T> out);

// The parts of the binned method, for a convolution that is made elsewhere.
// Half width of the widest kernel in steps of its grid.
template <class T>
std::size_t kde_reach(const KdeInput<T>& in);
// The share of each bin, (features, points + 2 reach + 1); grid point g is bin g + reach.
template <class T>
void kde_counts(const KdeInput<T>& in, std::size_t reach, int threads, double* counts);
// Gradients from the field at every bin, in the same layout: the adjoint of kde_counts.
template <class T>
void kde_counts_gradients(const KdeInput<T>& in, std::size_t reach, const double* field, int threads,
                          KdeGradients<T> out);

// sum_fg target_fg log(target_fg / mass_fg) / features, mass = max(step density, floor) with the binned density; its
// derivative with respect to the density goes to slope. target, density and slope are (features, points).
template <class T>
double kde_divergence(const KdeInput<T>& in, const double* target, double floor, int threads, T* density, T* slope);

}  // namespace hepgen
