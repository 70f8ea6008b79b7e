#include "cuda_bindings.hpp"

PYBIND11_MODULE(HEPGEN_MODULE, m) {
    using namespace hepgen::bindings;
#ifdef HEPGEN_EMULATED
    m.attr("emulated") = true;
#else
    m.attr("emulated") = false;
#endif
#ifdef HEPGEN_OP_MMD
    bind_cuda_mmd(m);
#endif
#ifdef HEPGEN_OP_KDE
    bind_cuda_kde(m);
#endif
#ifdef HEPGEN_OP_ECD
    bind_cuda_ecd(m);
#endif
#ifdef HEPGEN_OP_MAF
    bind_cuda_maf(m);
#endif
}
