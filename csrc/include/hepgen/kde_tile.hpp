// The hot loops of the kernel density estimates: samples of one feature into bins or cells and back, sums between
// cells and grid points. Positions are made in double, whatever the samples are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hepgen/isa.hpp"
#include "hepgen/round_up.hpp"

namespace hepgen {

inline constexpr int kLongestVector = 16;  // numbers in the longest vector of any instruction set
inline constexpr int kSpareBins = 4;
inline constexpr int kNaNBin = 2;  // bins + kNaNBin holds the NaN

// One feature of a run of samples, and the bins or cells it falls into: position = (x - origin) * inverse + shift.
// A position below 0 or from `end` on belongs to bin `bins`, NaN to bin `bins + 2`; tables have bins + kSpareBins
// entries, because a broken line looks one bin ahead.
template <class T>
struct Run {
    const T* x;        // x[i * stride]
    const T* weights;  // (count,), null for ones
    std::size_t stride, count;
    double origin, inverse, shift, end;
    std::int64_t bins;
};

// Where the derivatives of a run go; null where they are not wanted.
template <class T>
struct RunSlopes {
    T* points;        // points[i * stride] = weight * derivative with respect to x
    double* weights;  // weights[i] += value at x
    std::size_t stride;
};

// The expansion of the kernel about the centre of a cell, exp(-(g - y)^2) = exp(-g^2) exp(-y^2) sum_k (2 g y)^k / k!,
// in units of sqrt(2) bandwidths. Cut after `terms`, it errs by at most (r sqrt(2 e / p))^p / sqrt(2 pi p) with p terms
// and abs(y) <= r = width / 2: 3e-10 in float, 1.3e-18 in double; exp(-reach^2) is 1.4e-11 and 6e-18.
template <class T>
struct Expansion;
template <>
struct Expansion<float> {
    static constexpr int terms = 8, exp_degree = 4;
    static constexpr double width = 0.2, reach = 5.0;
};
template <>
struct Expansion<double> {
    static constexpr int terms = 16, exp_degree = 7;
    static constexpr double width = 0.3, reach = 6.3;
};

// Cells that can be within reach of a point, and the padding that lets loops run over whole vectors.
template <class T>
inline constexpr int kReachCells = int(Expansion<T>::reach / Expansion<T>::width) + 1;
template <class T>
inline constexpr int kWindowCells = int(round_up(2 * kReachCells<T> + 2, kLongestVector));

// Cells and grid points of one feature, all in units of cells: cell c is [c, c + 1).
template <class T>
struct Cells {
    std::int64_t cells;
    std::size_t stride;  // >= cells + kWindowCells: coefficients[k * stride + c], zero from `cells` on
    T* coefficients;
    double* table;  // table[c * 2 * terms + k]: coefficients of the field at cell c, then of its derivative
};

template <class T>
struct KdeFunctions {
    // pairs[2 * b] += weight, pairs[2 * b + 1] += weight * offset in the bin
    void (*bin)(const Run<T>& run, double* pairs);
    // value and derivative of the broken line through `values`; slopes[b]: the derivative with respect to x
    void (*bin_slopes)(const Run<T>& run, const double* values, const double* slopes, RunSlopes<T> out);
    // moments[c * terms + k] += weight exp(-y^2) y^k
    void (*moments)(const Run<T>& run, double* moments);
    void (*moment_slopes)(const Run<T>& run, const double* table, RunSlopes<T> out);
    // out[i] = sum over the cells within reach of points[i]
    void (*evaluate)(const Cells<T>& cells, const double* points, std::size_t count, double* out);
    // the table of kLongestVector cells from `first` on, from the points that can reach them
    void (*expand)(const Cells<T>& cells, std::int64_t first, const double* points, const double* values,
                   std::size_t count);
    // Sums at the sorted points without cells: sums[j] += weight exp(-((points[j] - x) * inverse)^2); points padded by
    // kLongestVector infinities, values and sums by as many zeros. sums[bins + kNaNBin] becomes NaN where an x is.
    void (*window)(const Run<T>& run, const double* points, double* sums);
    void (*window_slopes)(const Run<T>& run, const double* points, const double* values, RunSlopes<T> out);
    double (*sum)(const T* values, std::size_t count);
};

// out[i] = sum_{abs(j) <= reach} taps[abs(j)] in[i + reach + j], i < count; in holds round_up(count, 64) + 2 reach + 64
// numbers, out round_up(count, 64), taps[reach + 1 ...] are 64 zeros.
using ConvolveFunction = void (*)(const double* in, const double* taps, std::size_t reach, std::size_t count,
                                  double* out);

#define HEPGEN_DECLARE_KDE(isa)                 \
    namespace isa {                             \
    KdeFunctions<float> kde_functions(float);   \
    KdeFunctions<double> kde_functions(double); \
    ConvolveFunction convolve_function();       \
    }
HEPGEN_DECLARE_KDE(baseline)
#ifdef HEPGEN_X86
HEPGEN_DECLARE_KDE(avx2)
HEPGEN_DECLARE_KDE(avx512)
#endif
#undef HEPGEN_DECLARE_KDE

}  // namespace hepgen
