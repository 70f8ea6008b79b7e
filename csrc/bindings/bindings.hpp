// What the files of this folder share: arrays checked on the way in, one bind_ function per op.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

namespace hepgen::bindings {

namespace py = pybind11;

inline constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;  // what is not is copied

// Contiguous.
template <class T>
using Array = py::array_t<T, int(py::array::c_style) | kAligned>;

inline void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

void bind_broken_line(py::module_& m);
void bind_ecd(py::module_& m);
void bind_isa(py::module_& m);
void bind_kde(py::module_& m);
void bind_maf(py::module_& m);
void bind_mlp(py::module_& m);
void bind_mmd(py::module_& m);
void bind_philox(py::module_& m);

}  // namespace hepgen::bindings
