// Which instruction sets this build holds, which one this processor can run, and which one is in use.
#pragma once

#include <string>
#include <vector>

namespace hepgen {

enum class Isa { baseline, avx2, avx512 };

const char* isa_name(Isa isa);

// The sets that are both built and supported by this processor, lowest first.
std::vector<Isa> available_isas();

// The set in use: HEPGEN_ISA where it is set, the highest available otherwise.
// Throws std::invalid_argument where HEPGEN_ISA names something that cannot run here.
Isa active_isa();

// Chooses by name from now on, in every thread; "auto" returns to the highest available.
void set_active_isa(const std::string& name);

}  // namespace hepgen

// What a function declared once per instruction set, in a namespace each, gives in the one in use.
#ifdef HEPGEN_X86
#define HEPGEN_ACTIVE(call)                                     \
    (hepgen::active_isa() == hepgen::Isa::avx512 ? avx512::call \
     : hepgen::active_isa() == hepgen::Isa::avx2 ? avx2::call   \
                                                 : baseline::call)
#else
#define HEPGEN_ACTIVE(call) baseline::call
#endif
