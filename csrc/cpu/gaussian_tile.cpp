// Compiled once per instruction set; see gaussian_tile.hpp.
//
// A few rows at a time go along all columns, twice: first the kernel values are made, summed and, where gradients are
// wanted, kept for these rows; then each feature's differences are weighted with them. The first pass is a long chain
// of dependent operations, the second a short one: apart, both keep the multiply-add units busy.
#include "hepgen/gaussian_tile.hpp"

#include "hepgen/exp.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

constexpr int kRowsPerFlush = 128;  // column sums leave working precision for double after so many rows

constexpr bool has_gradients(Mode mode) {
    return mode == Mode::rows || mode == Mode::both;
}

constexpr std::size_t scratch_stride(int columns) {
    return round_up(columns, kPad);
}

// The parts of t.scratch: column sums and gradients, then the kernel values of the rows in work.
template <class T>
HEPGEN_INLINE T* column_scratch(const Tile<T>& t, int output) {
    return t.scratch + output * scratch_stride(t.columns);
}

template <class T>
HEPGEN_INLINE T* kernel_scratch(const Tile<T>& t, int row) {
    return column_scratch(t, 1 + t.features + row);
}

// The kernel at a squared distance, and its slope: minus its derivative in that distance, over ln 2.
template <class T>
struct Kernel {
    Vec<T> value, slope;
};

template <class T, bool Several>
HEPGEN_INLINE Kernel<T> kernel_at(const Tile<T>& t, Vec<T> exponent) {
    if constexpr (!Several) {
        const Vec<T> k = exp2_nonpositive<T>(exponent);
        return {k, k};
    }
    Kernel<T> sum{};
    for (int s = 0; s < t.scale_count; ++s) {
        const Vec<T> k = exp2_nonpositive<T>(exponent * t.scales[s]);
        sum.value += k;
        sum.slope += k * t.scales[s];
    }
    return sum;
}

// k_ij of these rows: its sums, and wx_i wy_j times its slope for the gradients.
template <class T, int D, bool Weighted, Mode M, int Rows, bool Several>
HEPGEN_INLINE void kernel_values(Tile<T>& t, int i) {
    constexpr int width = Lanes<T>::width;
    const int features = D > 0 ? D : t.features;
    const T *const x = t.x + i, *const y = t.y, *const wx = t.wx + i, *const wy = t.wy;
    T *const column_sums = column_scratch(t, 0), *const kernel = kernel_scratch(t, 0);
    const std::size_t x_stride = t.x_stride, y_stride = t.y_stride, stride = scratch_stride(t.columns);
    const int count = t.columns;
    T copy[Rows][D > 0 ? D : 1];  // so that no store in the loop can seem to change the rows
    for (int r = 0; r < Rows; ++r) {
        for (int f = 0; f < D; ++f) copy[r][f] = x[f * x_stride + r];
    }
    Vec<T> sum[Rows] = {};
    for (int j = 0; j < count; j += width) {
        Vec<T> exponent[Rows] = {};
#pragma GCC unroll 8
        for (int f = 0; f < features; ++f) {
            const Vec<T> column = load(y + f * y_stride + j);
            for (int r = 0; r < Rows; ++r) {
                const Vec<T> diff = column - (D > 0 ? copy[r][f] : x[f * x_stride + r]);
                exponent[r] = exponent[r] - diff * diff;
            }
        }
        Vec<T> column_sum{};
        for (int r = 0; r < Rows; ++r) {
            const Kernel<T> k = kernel_at<T, Several>(t, exponent[r]);
            sum[r] += Weighted ? k.value * load(wy + j) : k.value;
            if constexpr (M == Mode::both) column_sum += Weighted ? k.value * wx[r] : k.value;
            if constexpr (has_gradients(M)) {
                store<T>(kernel + r * stride + j, Weighted ? k.slope * load(wy + j) * wx[r] : k.slope);
            }
        }
        if constexpr (M == Mode::both) store<T>(column_sums + j, load(column_sums + j) + column_sum);
    }
    for (int r = 0; r < Rows; ++r) {
        const double total = static_cast<double>(sum_lanes<T>(sum[r]));
        if constexpr (M == Mode::value) {
            t.value += Weighted ? total * static_cast<double>(wx[r]) : total;
        } else {
            t.row[i + r] += total;
        }
    }
}

// sum_j wx_i wy_j slope_ij (y_jf - x_if) of these rows for features f ... f + Features - 1, and its opposite for the
// columns.
template <class T, Mode M, int Rows, int Features>
HEPGEN_INLINE void kernel_gradients(Tile<T>& t, int i, int f) {
    constexpr int width = Lanes<T>::width;
    Vec<T> x[Rows][Features], gradient[Rows][Features] = {};
    for (int r = 0; r < Rows; ++r) {
        for (int g = 0; g < Features; ++g) x[r][g] = broadcast<T>(t.x[(f + g) * t.x_stride + i + r]);
    }
    const T* const y_first = t.y + f * t.y_stride;
    const T* const kernel = kernel_scratch(t, 0);
    T* const columns = column_scratch(t, 1 + f);
    const std::size_t y_stride = t.y_stride, stride = scratch_stride(t.columns);
    const int count = t.columns;
    for (int j = 0; j < count; j += width) {
        Vec<T> k[Rows], y[Features], column[Features] = {};
        for (int r = 0; r < Rows; ++r) k[r] = load(kernel + r * stride + j);
        for (int g = 0; g < Features; ++g) y[g] = load(y_first + g * y_stride + j);
        for (int g = 0; g < Features; ++g) {
            if constexpr (M == Mode::both) column[g] = load(columns + g * stride + j);
            for (int r = 0; r < Rows; ++r) {
                const Vec<T> diff = y[g] - x[r][g];
                gradient[r][g] += k[r] * diff;
                if constexpr (M == Mode::both) column[g] -= k[r] * diff;
            }
        }
        for (int g = 0; g < Features && M == Mode::both; ++g) store<T>(columns + g * stride + j, column[g]);
    }
    for (int g = 0; g < Features; ++g) {
        for (int r = 0; r < Rows; ++r) {
            t.row[(1 + f + g) * t.row_stride + i + r] += static_cast<double>(sum_lanes<T>(gradient[r][g]));
        }
    }
}

template <class T, int D, bool Weighted, Mode M, int Rows, bool Several>
HEPGEN_INLINE void sum_rows(Tile<T>& t, int i) {
    constexpr int at_once = 2;
    kernel_values<T, D, Weighted, M, Rows, Several>(t, i);
    if constexpr (has_gradients(M)) {
        const int features = D > 0 ? D : t.features;
        int f = 0;
        for (; f + at_once <= features; f += at_once) kernel_gradients<T, M, Rows, at_once>(t, i, f);
        for (; f < features; ++f) kernel_gradients<T, M, Rows, 1>(t, i, f);
    }
}

template <class T>
void clear_columns(Tile<T>& t) {
    for (int output = 0; output <= t.features; ++output) {
        for (int j = 0; j < t.columns; j += Lanes<T>::width) store<T>(column_scratch(t, output) + j, Vec<T>{});
    }
}

template <class T>
void flush_columns(Tile<T>& t) {
    for (int output = 0; output <= t.features; ++output) {
        for (int j = 0; j < t.columns; j += Lanes<T>::width) {
            add_to(t.column + output * t.column_stride + j, load(column_scratch(t, output) + j));
        }
    }
}

template <class T, int D, bool Weighted, bool Several, Mode M>
void sum_tile(Tile<T>& t) {
    const FlushDenormals flush;
    for (int begin = 0; begin < t.rows; begin += kRowsPerFlush) {
        const int end = begin + kRowsPerFlush < t.rows ? begin + kRowsPerFlush : t.rows;
        if constexpr (M == Mode::both) clear_columns(t);
        int i = begin;
        for (; i + kRowsAtOnce <= end; i += kRowsAtOnce) sum_rows<T, D, Weighted, M, kRowsAtOnce, Several>(t, i);
        for (; i < end; ++i) sum_rows<T, D, Weighted, M, 1, Several>(t, i);
        if constexpr (M == Mode::both) flush_columns(t);
    }
}

template <class T, int D, bool Weighted, bool Several>
TileFunction<T> by_mode(Mode mode) {
    switch (mode) {
        case Mode::value:
            return sum_tile<T, D, Weighted, Several, Mode::value>;
        case Mode::sums:
            return sum_tile<T, D, Weighted, Several, Mode::sums>;
        case Mode::rows:
            return sum_tile<T, D, Weighted, Several, Mode::rows>;
        case Mode::both:
            break;
    }
    return sum_tile<T, D, Weighted, Several, Mode::both>;
}

template <class T, int D, bool Several = false>
TileFunction<T> by_weights(TileKind kind) {
    return kind.weighted ? by_mode<T, D, true, Several>(kind.mode) : by_mode<T, D, false, Several>(kind.mode);
}

template <class T>
TileFunction<T> by_features(TileKind kind) {
    if (kind.several) return by_weights<T, 0, true>(kind);
    switch (kind.features) {
        case 1:
            return by_weights<T, 1>(kind);
        case 2:
            return by_weights<T, 2>(kind);
        case 3:
            return by_weights<T, 3>(kind);
        case 4:
            return by_weights<T, 4>(kind);
        case 5:
            return by_weights<T, 5>(kind);
        case 6:
            return by_weights<T, 6>(kind);
        case 7:
            return by_weights<T, 7>(kind);
        case 8:
            return by_weights<T, 8>(kind);
        default:
            return by_weights<T, 0>(kind);
    }
}

}  // namespace

TileFunction<float> gaussian_tile(float, TileKind kind) {
    return by_features<float>(kind);
}

TileFunction<double> gaussian_tile(double, TileKind kind) {
    return by_features<double>(kind);
}

}  // namespace hepgen::HEPGEN_ISA
