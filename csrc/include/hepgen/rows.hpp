// Matrices as callers hold them, and as tiles want them: one column after the other.
#pragma once

#include <algorithm>
#include <cstddef>

namespace hepgen {

// An (n, columns) matrix with strides in elements.
template <class T>
struct Rows {
    T* data;
    std::ptrdiff_t row_stride, column_stride;

    T& at(std::size_t row, int column) const { return data[std::ptrdiff_t(row) * row_stride + column * column_stride]; }
};

// Rows [begin, end) of the n that there are into columns `stride` apart; beyond n the last row is repeated.
template <class T>
void gather(const Rows<const T>& in, std::size_t n, int columns, std::size_t begin, std::size_t end, T* out,
            std::size_t stride) {
    for (int k = 0; k < columns; ++k) {
        for (std::size_t i = begin; i < end; ++i) out[k * stride + i - begin] = in.at(std::min(i, n - 1), k);
    }
}

// Columns `stride` apart into rows [begin, end) of a contiguous matrix.
template <class T>
void scatter(const T* columns, std::size_t stride, int count, std::size_t begin, std::size_t end, T* out) {
    for (std::size_t i = begin; i < end; ++i) {
        for (int k = 0; k < count; ++k) out[i * count + k] = columns[k * stride + i - begin];
    }
}

}  // namespace hepgen
