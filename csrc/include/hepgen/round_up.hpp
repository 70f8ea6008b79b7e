#pragma once

#include <cstddef>

namespace hepgen {

// Always inlined: sources of several instruction sets use it, and the linker must not merge their copies.
__attribute__((always_inline)) constexpr std::size_t round_up(std::size_t n, std::size_t step) {
    return (n + step - 1) / step * step;
}

}  // namespace hepgen
