#include "bindings.hpp"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() = "Compiled kernels of hepgen, on numpy arrays; use them through hepgen.kernels.";
    hepgen::bindings::bind_broken_line(m);
    hepgen::bindings::bind_ecd(m);
    hepgen::bindings::bind_isa(m);
    hepgen::bindings::bind_kde(m);
    hepgen::bindings::bind_maf(m);
    hepgen::bindings::bind_mlp(m);
    hepgen::bindings::bind_mmd(m);
    hepgen::bindings::bind_philox(m);
}
