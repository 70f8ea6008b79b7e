// Strided arrays as the kernels take them.
#pragma once

#include "bindings.hpp"
#include "hepgen/rows.hpp"

namespace hepgen::bindings {

// Aligned, so that strides are whole numbers of elements: a column of packed records is copied.
template <class T>
using Strided = py::array_t<T, kAligned>;

// Of a vector, or of a matrix.
template <class T>
Rows<const T> rows(const Strided<T>& array) {
    const auto step = [&](py::ssize_t axis) { return array.strides(axis) / py::ssize_t(sizeof(T)); };
    return {array.data(), step(0), array.ndim() == 2 ? step(1) : 0};
}

template <class T>
void check_rows(const Strided<T>& array, py::ssize_t n, int columns, const char* what) {
    require(array.ndim() == 2 && array.shape(0) == n && array.shape(1) == columns,
            std::string(what) + " must have shape (rows, " + std::to_string(columns) + ")");
}

template <class T>
void check_column(const Strided<T>& array, py::ssize_t n, const char* what) {
    require(array.ndim() == 1 && array.shape(0) == n, std::string(what) + " must hold one value per row");
}

}  // namespace hepgen::bindings
