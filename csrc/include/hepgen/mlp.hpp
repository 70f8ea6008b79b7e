// A plain multilayer perceptron as a whole, forward and gradient: a tile of events goes through all layers in cache.
// Results do not depend on the number of threads, a row's values not on the other rows.
#pragma once

#include <cstddef>
#include <vector>

#include "hepgen/mlp_tile.hpp"
#include "hepgen/rows.hpp"

namespace hepgen {

struct MlpShape {
    std::vector<int> widths;  // inputs, hidden ..., outputs
    Activation activation;    // of the hidden layers
    MlpOutput output;

    int layers() const { return int(widths.size()) - 1; }
};

// Per layer weight (units, seen) and bias (units,), contiguous and row-major. With T = float or double it carries the
// gradients out.
template <class T>
struct MlpLayers {
    std::vector<T*> weights, biases;
};

// Number of elements of what a call leaves for its backward pass: one tile's width that says for how many lanes the
// rest is laid out, then the values of every tile; 0 where that is so much that the values are computed again.
std::size_t mlp_record_size(const MlpShape& shape, std::size_t n, std::size_t element_size);

// out (n, outputs), contiguous; record is null where no gradient will be asked for.
template <class T>
void mlp_apply(const MlpShape& shape, const MlpLayers<const T>& layers, std::size_t n, Rows<const T> in, int threads,
               T* out, T* record);

// Gradients given that of out. in_gradient (n, inputs), contiguous, is skipped where null; gradients where empty.
template <class T>
void mlp_backward(const MlpShape& shape, const MlpLayers<const T>& layers, std::size_t n, Rows<const T> in,
                  const T* record, Rows<const T> out_gradient, int threads, T* in_gradient,
                  const MlpLayers<T>& gradients);

}  // namespace hepgen
