#include "hepgen/isa.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace hepgen {
namespace {

constexpr int kUndecided = -1;
std::atomic<int> chosen{kUndecided};

bool supported([[maybe_unused]] Isa isa) {
#ifdef HEPGEN_X86
    __builtin_cpu_init();
    switch (isa) {
        case Isa::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        case Isa::avx512:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("fma");
        case Isa::baseline:
            return true;
    }
#endif
    return isa == Isa::baseline;
}

Isa by_name(const std::string& name) {
    std::string names;
    for (Isa isa : available_isas()) {
        if (name == isa_name(isa)) return isa;
        names += names.empty() ? "" : ", ";
        names += isa_name(isa);
    }
    throw std::invalid_argument("instruction set '" + name + "' cannot run here; choose one of " + names + " or auto");
}

Isa decide(const std::string& name) {
    return name.empty() || name == "auto" ? available_isas().back() : by_name(name);
}

}  // namespace

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        case Isa::baseline:
            break;
    }
    return "baseline";
}

std::vector<Isa> available_isas() {
    std::vector<Isa> isas;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (supported(isa)) isas.push_back(isa);
    }
    return isas;
}

Isa active_isa() {
    int current = chosen.load(std::memory_order_relaxed);
    if (current == kUndecided) {
        const char* wanted = std::getenv("HEPGEN_ISA");
        current = static_cast<int>(decide(wanted ? wanted : ""));
        chosen.store(current, std::memory_order_relaxed);
    }
    return static_cast<Isa>(current);
}

void set_active_isa(const std::string& name) {
    chosen.store(static_cast<int>(decide(name)), std::memory_order_relaxed);
}

}  // namespace hepgen
