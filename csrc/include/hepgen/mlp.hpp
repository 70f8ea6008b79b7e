// Plain multilayer perceptrons as a whole, forward and gradient: a tile of events goes through all layers in cache, and
// the members of an ensemble go side by side, one thread each. Results do not depend on the number of threads, a row's
// values not on the other rows nor on the other members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hepgen/mlp_tile.hpp"
#include "hepgen/rows.hpp"

namespace hepgen {

struct MlpShape {
    std::vector<int> widths;  // inputs, hidden ..., outputs
    Activation activation;    // of the hidden layers
    MlpOutput output;
    bool shortcuts = false;  // MlpPlan says where; those layers must be of equal widths

    int layers() const { return int(widths.size()) - 1; }
};

// Per layer weight (units, seen) and bias (units,), contiguous and row-major. With T = float or double it carries the
// gradients out.
template <class T>
struct MlpLayers {
    std::vector<T*> weights, biases;
};

// A network of an ensemble with the events that it sees, and the seed of its dropout.
template <class T>
struct MlpMember {
    MlpLayers<const T> layers;
    Rows<const T> in;
    std::uint64_t seed;
};

// The probability that a hidden unit is left out, in units of 1 / 65536.
std::uint32_t mlp_dropout(double probability);

// Number of elements of what a call leaves for its backward pass. Per member one tile's width that says for how many
// lanes the rest is laid out, then the values of every tile; 0 where that is so much that the values are computed
// again.
std::size_t mlp_record_size(const MlpShape& shape, std::size_t members, std::size_t n, std::size_t element_size);

// Every member to its own n events. out (members, n, outputs), contiguous; record is null where no gradient will be
// asked for.
template <class T>
void mlp_apply(const MlpShape& shape, const std::vector<MlpMember<T>>& members, std::uint32_t dropout, std::size_t n,
               int threads, T* out, T* record);

// Gradients given those of out, member by member. in_gradient (members, n, inputs), contiguous, is skipped where null;
// gradients where empty.
template <class T>
void mlp_backward(const MlpShape& shape, const std::vector<MlpMember<T>>& members, std::uint32_t dropout, std::size_t n,
                  const T* record, const std::vector<Rows<const T>>& out_gradients, int threads, T* in_gradient,
                  const std::vector<MlpLayers<T>>& gradients);

}  // namespace hepgen
