// Compiled once per instruction set; see kde_tile.hpp.
#include "hepgen/kde_tile.hpp"

#include "hepgen/exp.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

using D = Vec<double>;
using Ints = Lanes<double>::Ints;
constexpr int kWide = Lanes<double>::width;
constexpr int kBlock = 128;  // samples whose places are found together
constexpr double kLog2E = 1.4426950408889634074;

struct Places {
    alignas(64) double offset[kBlock];
    alignas(64) std::int64_t bin[kBlock];
};

template <class T>
HEPGEN_INLINE int block_size(const Run<T>& run, std::size_t first) {
    return run.count - first < std::size_t(kBlock) ? int(run.count - first) : kBlock;
}

HEPGEN_INLINE D floor_of(D p) {
    constexpr double round = FloatFormat<double>::round_to_integer;
    const D nearest = (p + round) - round;
    return nearest - (nearest > p ? broadcast<double>(1.0) : D{});
}

// Bins and offsets of a block of samples.
template <class T>
HEPGEN_INLINE void locate(const Run<T>& run, std::size_t first, int count, Places& to) {
    constexpr double round = FloatFormat<double>::round_to_integer;
    const Ints bias = (Ints)broadcast<double>(round), outside = Ints{} + run.bins;
    const T* x = run.x + first * run.stride;
    for (int i = 0; i < count; ++i) to.offset[i] = static_cast<double>(x[i * run.stride]);
    for (int i = count; i % kWide; ++i) to.offset[i] = 0.0;
    for (int i = 0; i < count; i += kWide) {
        const D p = (load(to.offset + i) - run.origin) * run.inverse + run.shift;
        const Ints inside = (p >= 0.0) & (p < run.end);
        const D kept = inside ? p : D{};
        const D left = floor_of(kept);
        store<double>(to.offset + i, kept - left);
        const Ints bin = (Ints)(left + round) - bias;
        *reinterpret_cast<Ints*>(to.bin + i) = inside ? bin : outside - kNaNBin * (p != p);
    }
}

template <class T>
void bin(const Run<T>& run, double* pairs) {
    typedef double Pair __attribute__((vector_size(16)));
    Pair* const to = reinterpret_cast<Pair*>(pairs);
    Places places;
    for (std::size_t first = 0; first < run.count; first += kBlock) {
        const int count = block_size(run, first);
        locate(run, first, count, places);
        if (run.weights) {
            for (int i = 0; i < count; ++i) {
                const double w = static_cast<double>(run.weights[first + i]);
                to[places.bin[i]] += Pair{w, w * places.offset[i]};
            }
        } else {
            for (int i = 0; i < count; ++i) to[places.bin[i]] += Pair{1.0, places.offset[i]};
        }
    }
}

template <class T>
void bin_slopes(const Run<T>& run, const double* values, const double* slopes, RunSlopes<T> out) {
    Places places;
    for (std::size_t first = 0; first < run.count; first += kBlock) {
        const int count = block_size(run, first);
        locate(run, first, count, places);
        if (out.points) {
            T* const to = out.points + first * out.stride;
            for (int i = 0; i < count; ++i) {
                const double w = run.weights ? static_cast<double>(run.weights[first + i]) : 1.0;
                to[i * out.stride] = static_cast<T>(w * slopes[places.bin[i]]);
            }
        }
        if (out.weights) {
            for (int i = 0; i < count; ++i) {
                const std::int64_t b = places.bin[i];
                const double step = values[b + 1] - values[b];
                out.weights[first + i] += values[b] + places.offset[i] * step;
            }
        }
    }
}

// --- expansions about the centres of cells

// 1, y, y^2, ... in the lanes; y_wide: y^kWide
template <int... lane>
HEPGEN_INLINE D powers(double y, D& y_wide, std::integer_sequence<int, lane...>) {
    constexpr Ints bit0 = {-(lane & 1)...}, bit1 = {-(lane >> 1 & 1)...}, bit2 = {-(lane >> 2 & 1)...};
    const D one = broadcast<double>(1.0), y1 = broadcast<double>(y), y2 = y1 * y1;
    D power = bit0 ? y1 : one;
    y_wide = y2;
    if constexpr (kWide >= 4) {
        power *= bit1 ? y2 : one;
        y_wide = y2 * y2;
    }
    if constexpr (kWide >= 8) {
        power *= bit2 ? y_wide : one;
        y_wide *= y_wide;
    }
    return power;
}

// exp(-y^2) for the small y of a cell, by its series.
template <class T>
HEPGEN_INLINE D exp_of_square(D y) {
    constexpr int degree = Expansion<T>::exp_degree;
    const D z = y * y;
    D sum = broadcast<double>(1.0);
#pragma GCC unroll 8
    for (int k = degree; k > 0; --k) sum = 1.0 - z * sum * (1.0 / k);
    return sum;
}

// Offsets from the cells' centres in units of sqrt(2) bandwidths, and exp(-y^2).
template <class T>
HEPGEN_INLINE void centre(Places& places, int count, double* factor) {
    for (int i = 0; i < count; i += kWide) {
        const D y = (load(places.offset + i) - 0.5) * Expansion<T>::width;
        store<double>(places.offset + i, y);
        store<double>(factor + i, exp_of_square<T>(y));
    }
}

template <class T>
void moments(const Run<T>& run, double* to) {
    constexpr int terms = Expansion<T>::terms;
    constexpr auto lanes = std::make_integer_sequence<int, kWide>{};
    Places places;
    alignas(64) double factor[kBlock];
    for (std::size_t first = 0; first < run.count; first += kBlock) {
        const int count = block_size(run, first);
        locate(run, first, count, places);
        centre<T>(places, count, factor);
        if (run.weights) {
            for (int i = 0; i < count; ++i) factor[i] *= static_cast<double>(run.weights[first + i]);
        }
        for (int i = 0; i < count; ++i) {
            double* const cell = to + places.bin[i] * terms;
            D step, power = powers(places.offset[i], step, lanes) * factor[i];
#pragma GCC unroll 8
            for (int k = 0; k < terms; k += kWide) {
                store<double>(cell + k, load(cell + k) + power);
                power *= step;
            }
        }
    }
}

template <class T>
void moment_slopes(const Run<T>& run, const double* table, RunSlopes<T> out) {
    constexpr int terms = Expansion<T>::terms;
    constexpr auto lanes = std::make_integer_sequence<int, kWide>{};
    const double per_x = run.inverse * Expansion<T>::width;
    Places places;
    alignas(64) double factor[kBlock];
    for (std::size_t first = 0; first < run.count; first += kBlock) {
        const int count = block_size(run, first);
        locate(run, first, count, places);
        centre<T>(places, count, factor);
        for (int i = 0; i < count; ++i) {
            const double y = places.offset[i];
            const double* const cell = table + places.bin[i] * 2 * terms;
            D step, power = powers(y, step, lanes), value{}, slope{};
#pragma GCC unroll 8
            for (int k = 0; k < terms; k += kWide) {
                const D part = load(cell + k);
                value += power * part;
                slope += power * (load(cell + terms + k) - part * (2 * y));
                power *= step;
            }
            if (out.points) {
                const double w = run.weights ? static_cast<double>(run.weights[first + i]) : 1.0;
                out.points[(first + i) * out.stride] = static_cast<T>(w * per_x * factor[i] * sum_lanes<double>(slope));
            }
            if (out.weights) out.weights[first + i] += factor[i] * sum_lanes<double>(value);
        }
    }
}

template <class T, int... lane>
HEPGEN_INLINE Vec<T> lane_numbers(std::integer_sequence<int, lane...>) {
    return Vec<T>{T(lane)...};
}

template <class T>
void evaluate(const Cells<T>& cells, const double* points, std::size_t count, double* out) {
    const FlushDenormals flush;
    constexpr int terms = Expansion<T>::terms, width = Lanes<T>::width;
    constexpr T step = T(Expansion<T>::width);
    const Vec<T> lanes = lane_numbers<T>(std::make_integer_sequence<int, width>{}) * step;
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t nearest = static_cast<std::int64_t>(points[i]) - kReachCells<T>;
        const std::int64_t first = nearest > 0 ? nearest : 0;
        Vec<T> d = T((points[i] - static_cast<double>(first) - 0.5) * Expansion<T>::width) - lanes, sum{};
        const T* coefficients = cells.coefficients + first;
        for (int c = 0; c < kWindowCells<T>; c += width, d -= step * width) {
            Vec<T> polynomial = load(coefficients + (terms - 1) * cells.stride + c);
#pragma GCC unroll 16
            for (int k = terms - 2; k >= 0; --k)
                polynomial = polynomial * d + load(coefficients + k * cells.stride + c);
            sum += polynomial * exp2_nonpositive<T>(d * d * T(-kLog2E));
        }
        out[i] = static_cast<double>(sum_lanes<T>(sum));
    }
}

// sum_i values[i] exp(-d^2) d^k for the cells of one vector, d the distance from the centre to point i.
template <class T>
HEPGEN_INLINE void expand_vector(std::int64_t first, const double* points, const double* values, std::size_t count,
                                 double* sums) {
    constexpr int terms = Expansion<T>::terms, width = Lanes<T>::width;
    constexpr std::size_t flush = 128;  // terms that are added before the sums leave working precision for double
    const Vec<T> lanes = lane_numbers<T>(std::make_integer_sequence<int, width>{}) * T(Expansion<T>::width);
    for (std::size_t begin = 0; begin < count; begin += flush) {
        const std::size_t end = begin + flush < count ? begin + flush : count;
        Vec<T> sum[terms] = {};
        for (std::size_t i = begin; i < end; ++i) {
            const double from = (points[i] - static_cast<double>(first) - 0.5) * Expansion<T>::width;
            const Vec<T> d = T(from) - lanes;
            Vec<T> power = exp2_nonpositive<T>(d * d * T(-kLog2E)) * T(values[i]);
#pragma GCC unroll 16
            for (int k = 0; k < terms; ++k) {
                sum[k] += power;
                power *= d;
            }
        }
        for (int k = 0; k < terms; ++k) add_to(sums + k * width, sum[k]);
    }
}

template <class T>
void expand(const Cells<T>& cells, std::int64_t first, const double* points, const double* values, std::size_t count) {
    const FlushDenormals flush;
    constexpr int terms = Expansion<T>::terms, width = Lanes<T>::width;
    for (int part = 0; part < kLongestVector && first + part < cells.cells; part += width) {
        alignas(64) double sums[terms * width] = {};
        expand_vector<T>(first + part, points, values, count, sums);
        for (int lane = 0; lane < width && first + part + lane < cells.cells; ++lane) {
            double* const row = cells.table + (first + part + lane) * 2 * terms;
            double factor = 1;  // 2^k / k!
            for (int k = 0; k < terms; factor *= 2.0 / ++k) row[k] = sums[k * width + lane] * factor;
            for (int k = 0; k + 1 < terms; ++k) row[terms + k] = (k + 1) * row[k + 1];
            row[2 * terms - 1] = 0;
        }
    }
}

// --- without cells: the points within reach of each sample, one by one

HEPGEN_INLINE std::size_t first_not_below(const double* points, std::size_t count, double limit) {
    std::size_t begin = 0;
    while (count > 0) {
        const std::size_t half = count / 2;
        const bool below = points[begin + half] < limit;
        begin = below ? begin + half + 1 : begin;
        count = below ? count - half - 1 : half;
    }
    return begin;
}

// exp(-d^2); at the padding, which lies at infinity, 0
HEPGEN_INLINE D gaussian(D d) {
    return exp2_nonpositive<double>(at_least<double>(-1100.0, d * d * -kLog2E));
}

template <class T>
void window(const Run<T>& run, const double* points, double* sums) {
    const FlushDenormals flush;
    const std::size_t count = std::size_t(run.bins);
    const double reach = Expansion<double>::reach / run.inverse;
    for (std::size_t i = 0; i < run.count; ++i) {
        const double x = static_cast<double>(run.x[i * run.stride]);
        const double w = run.weights ? static_cast<double>(run.weights[i]) : 1.0;
        if (x != x) sums[run.bins + kNaNBin] = x;
        for (auto j = first_not_below(points, count, x - reach); j < count && points[j] <= x + reach; j += kWide) {
            store<double>(sums + j, load(sums + j) + gaussian((load(points + j) - x) * run.inverse) * w);
        }
    }
}

template <class T>
void window_slopes(const Run<T>& run, const double* points, const double* values, RunSlopes<T> out) {
    const FlushDenormals flush;
    const std::size_t count = std::size_t(run.bins);
    const double reach = Expansion<double>::reach / run.inverse;
    for (std::size_t i = 0; i < run.count; ++i) {
        const double x = static_cast<double>(run.x[i * run.stride]);
        const double w = run.weights ? static_cast<double>(run.weights[i]) : 1.0;
        D value{}, slope{};
        for (auto j = first_not_below(points, count, x - reach); j < count && points[j] <= x + reach; j += kWide) {
            const D d = (load(points + j) - x) * run.inverse, kernel = gaussian(d), k = kernel * load(values + j);
            value += k;
            slope += (kernel == 0.0) ? D{} : k * d;
        }
        const double poison = x == x ? 0.0 : x;
        if (out.points) {
            out.points[i * out.stride] = static_cast<T>(2 * run.inverse * w * sum_lanes<double>(slope) + poison);
        }
        if (out.weights) out.weights[i] += sum_lanes<double>(value) + poison;
    }
}

template <class T>
double sum(const T* values, std::size_t count) {
    constexpr int width = Lanes<T>::width;
    alignas(64) double parts[width] = {};
    std::size_t i = 0;
    for (; i + width <= count; i += width) add_to(parts, load(values + i));
    double total = 0;
    for (int lane = 0; lane < width; ++lane) total += parts[lane];
    for (; i < count; ++i) total += static_cast<double>(values[i]);
    return total;
}

// Taps that are kWide apart see the same vectors of the input: each is loaded once for all four sums.
void convolve(const double* in, const double* taps, std::size_t reach, std::size_t count, double* out) {
    constexpr int rows = 4;
    for (std::size_t i = 0; i < count; i += rows * kWide) {
        D sum[rows] = {};
        for (std::size_t phase = 0; phase < kWide && phase <= 2 * reach; ++phase) {
            const double* from = in + i + phase;
            D v[rows];
            for (int r = 0; r < rows - 1; ++r) v[r] = load(from + r * kWide);
            for (std::size_t j = phase; j <= 2 * reach; j += kWide, from += kWide) {
                v[rows - 1] = load(from + (rows - 1) * kWide);
                const double tap = taps[j > reach ? j - reach : reach - j];
#pragma GCC unroll 4
                for (int r = 0; r < rows; ++r) sum[r] += v[r] * tap;
#pragma GCC unroll 4
                for (int r = 0; r < rows - 1; ++r) v[r] = v[r + 1];
            }
        }
        for (int r = 0; r < rows; ++r) store<double>(out + i + r * kWide, sum[r]);
    }
}

template <class T>
KdeFunctions<T> functions() {
    return {bin<T>,    bin_slopes<T>,    moments<T>, moment_slopes<T>, evaluate<T>, expand<T>,
            window<T>, window_slopes<T>, sum<T>};
}

}  // namespace

KdeFunctions<float> kde_functions(float) {
    return functions<float>();
}
KdeFunctions<double> kde_functions(double) {
    return functions<double>();
}
ConvolveFunction convolve_function() {
    return convolve;
}

}  // namespace hepgen::HEPGEN_ISA
