#include "hepgen/philox.hpp"

#include <pybind11/stl.h>

#include "bindings.hpp"

namespace hepgen::bindings {
namespace {

Array<double> fill(const Array<std::uint64_t>& identity, std::size_t columns, std::uint64_t seed, std::uint32_t stream,
                   bool normal, int threads) {
    require(identity.ndim() == 2, "identity must have shape (rows, words)");
    require(columns >> 33 == 0, "columns must lie in [0, 2^33)");  // two to a counter of 32 bits
    const auto rows = static_cast<std::size_t>(identity.shape(0)), words = static_cast<std::size_t>(identity.shape(1));
    Array<double> out({rows, columns});
    double* to = out.mutable_data();
    const std::uint64_t* from = identity.data();
    const auto distribution = normal ? Distribution::normal : Distribution::uniform;
    py::gil_scoped_release release;
    philox_fill(distribution, from, rows, words, columns, seed, stream, threads, to);
    return out;
}

py::tuple block(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
    const Philox4x32 r = philox4x32(counter, key[0], key[1]);
    return py::make_tuple(r[0], r[1], r[2], r[3]);
}

}  // namespace

void bind_philox(py::module_& m) {
    m.def("philox_fill", &fill, py::arg("identity").noconvert(), py::arg("columns"), py::arg("seed"), py::arg("stream"),
          py::arg("normal"), py::arg("threads"));
    m.def("philox_block", &block, py::arg("counter"), py::arg("key"));
}

}  // namespace hepgen::bindings
