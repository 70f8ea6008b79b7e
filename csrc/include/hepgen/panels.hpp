// Dense layers in panels: which outputs go together through the registers, where their weights lie, and the packing of
// weights and unpacking of gradients. Plain structs first: what is compiled once per instruction set uses these alone.
#pragma once

#include <cstddef>

namespace hepgen {

inline constexpr int kTileEvents = 64;
inline constexpr int kMostLanes = 16;

enum class Activation { relu, tanh, elu };

inline constexpr std::size_t kNoBias = ~std::size_t(0);

// out[first + r] = bias[r] + sum_k weights[k][r] in[from + k], r < count, k < length
struct Panel {
    int first, count, from, length;
    std::size_t weights;  // offset of (length, count) in the packed weights
    std::size_t bias;     // offset of (count,) in the packed weights, kNoBias for none
    std::size_t sums;     // offset of (ceil(length / lanes), count, lanes) in the gradient sums
};

struct Panels {
    const Panel* first;
    int count;

    // Always inlined: sources of several instruction sets use them, and the linker must not merge their copies.
    __attribute__((always_inline)) const Panel* begin() const { return first; }
    __attribute__((always_inline)) const Panel* end() const { return first + count; }
};

}  // namespace hepgen
