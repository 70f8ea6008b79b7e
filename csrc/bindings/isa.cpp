#include "hepgen/isa.hpp"

#include <pybind11/stl.h>

#include "bindings.hpp"
#include "hepgen/ceiling.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen::bindings {

void bind_isa(py::module_& m) {
    m.def("instruction_set", [] { return std::string(isa_name(active_isa())); });
    m.def("set_instruction_set", &set_active_isa, py::arg("name"));
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (Isa isa : available_isas()) names.emplace_back(isa_name(isa));
        return names;
    });
    m.def("borrows_threads", &borrows_threads);
    m.def(
        "peak_flops",
        [](int threads) {
            require(threads >= 1, "threads must be at least 1");
            py::gil_scoped_release release;
            return peak_flops(threads);
        },
        py::arg("threads"));
    m.def(
        "memory_bandwidth",
        [](int threads) {
            require(threads >= 1, "threads must be at least 1");
            py::gil_scoped_release release;
            return memory_bandwidth(threads);
        },
        py::arg("threads"));
}

}  // namespace hepgen::bindings
