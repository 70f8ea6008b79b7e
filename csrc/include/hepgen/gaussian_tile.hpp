// A rectangle of the Gaussian kernel matrix, k_ij = sum_s 2^(-c_s sum_f (x_if - y_jf)^2), that is summed while it is
// made. There is one scale c = 1, or several. Gradients are made of its slope, sum_s c_s 2^(-c_s ...).
#pragma once

#include <cstddef>

#include "hepgen/isa.hpp"
#include "hepgen/round_up.hpp"

namespace hepgen {

inline constexpr std::size_t kPad = 64;  // points are stored in multiples of this; no vector is longer
inline constexpr int kRowsAtOnce = 4;    // rows that a tile works on together

// How many numbers Tile::scratch must hold.
constexpr std::size_t scratch_size(int features, std::size_t columns) {
    return (1 + features + kRowsAtOnce) * round_up(columns, kPad);
}

enum class Mode {
    value,  // sum_ij wx_i wy_j k_ij alone
    sums,   // and sum_j wy_j k_ij for every row
    rows,   // and sum_j wx_i wy_j slope_ij (y_j - x_i): the gradient with respect to the row's point, but for factors
    both,   // and the same two for every column
};

template <class T>
struct Tile {
    const T* x;  // x[f * x_stride + i]: feature f of row i, scaled
    const T* y;  // y[f * y_stride + j]; points that only fill the last vector lie so far away that k_ij = 0
    std::size_t x_stride, y_stride;
    const T* wx;  // weights, (rows,) and (columns,); both null where all weights are one
    const T* wy;
    int features, rows, columns;
    double* row;  // row[i] += sum_j wy_j k_ij; row[(1 + f) * row_stride + i] += sum_j wx_i wy_j slope_ij (y_jf - x_if)
    std::size_t row_stride;
    double* column;  // the same for the columns
    std::size_t column_stride;
    const T* scales;  // (scale_count,), read by functions for several scales alone
    int scale_count;
    T* scratch;    // scratch_size(features, columns) numbers
    double value;  // Mode::value adds to it
};

template <class T>
using TileFunction = void (*)(Tile<T>&);

struct TileKind {
    int features;
    bool weighted, several;
    Mode mode;
};

// The function for that kind, in one instruction set.
namespace baseline {
TileFunction<float> gaussian_tile(float, TileKind kind);
TileFunction<double> gaussian_tile(double, TileKind kind);
}  // namespace baseline
#ifdef HEPGEN_X86
namespace avx2 {
TileFunction<float> gaussian_tile(float, TileKind kind);
TileFunction<double> gaussian_tile(double, TileKind kind);
}  // namespace avx2
namespace avx512 {
TileFunction<float> gaussian_tile(float, TileKind kind);
TileFunction<double> gaussian_tile(double, TileKind kind);
}  // namespace avx512
#endif

}  // namespace hepgen
