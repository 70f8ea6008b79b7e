// What the bindings of the CUDA ops share. Tensors come as addresses: torch made them, and their device is torch's.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "hepgen/cuda/stream.hpp"

namespace hepgen::bindings {

namespace py = pybind11;

// of a tensor's first element, or of a stream; 0 where there is none
using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

inline cuda::Stream stream_at(Address address) {
    return reinterpret_cast<cuda::Stream>(address);
}

inline void require(bool condition, const char* message) {
    if (!condition) throw py::value_error(message);
}

void bind_cuda_mmd(py::module_& m);
void bind_cuda_kde(py::module_& m);
void bind_cuda_ecd(py::module_& m);
void bind_cuda_maf(py::module_& m);

}  // namespace hepgen::bindings
