// A conditional masked autoregressive flow (Papamakarios et al. 2017) as a whole: both directions, with
// log-determinant, and the gradient of either.
//
// Blocks are MADEs with hidden units sorted by degree, so that unit o of a layer sees a prefix of the layer before it.
// Results depend on the numbers and the instruction set alone: a row's values not on its position or on the number of
// rows, gradients of weights not on the number of threads (partial sums of fixed groups of rows, added in order).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hepgen/maf_tile.hpp"
#include "hepgen/rows.hpp"

namespace hepgen {

// What all blocks of a flow have in common.
struct MafShape {
    int features, context, blocks;
    std::vector<int> hidden;  // widths of the hidden layers
    Activation activation;
    double bound;                // of the soft-clipped log-scale, see maf_bijection.hpp
    const std::int64_t* orders;  // (blocks, features): column j of block b is column orders[b][j] of its input
};

// One block's parameters, each contiguous and row-major: weight (hidden[0], features), bias, context weight
// (hidden[0], context) or null, then weight and bias of every further layer, the last (2 features, hidden.back()).
// The same struct with T = float or double carries the gradients out.
template <class T>
struct MafBlock {
    T* context_weight;
    std::vector<T*> weights, biases;
};

enum class Direction { forward, inverse };  // towards the base, towards the data

// Number of elements of the record that a call leaves for its backward pass: the columns between the blocks, (blocks +
// 1, features, n padded) and, where all of them are few enough, the hidden units, which are computed again otherwise.
std::size_t maf_record_size(const MafShape& shape, std::size_t n, std::size_t element_size);

// out (n, features) and log_det (n,), both contiguous; record is null where no gradient will be asked for.
template <class T>
void maf_apply(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
               Rows<const T> in, Rows<const T> context, int threads, T* out, T* log_det, T* record);

// Gradients given those of out and log_det. in (n, features) and context (n, context), contiguous, are skipped where
// null; blocks is skipped where empty.
template <class T>
void maf_backward(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks,
                  std::size_t n, const T* record, Rows<const T> context, Rows<const T> out_gradient,
                  Rows<const T> log_det_gradient, int threads, T* in_gradient, T* context_gradient,
                  const std::vector<MafBlock<T>>& gradients);

// Value and gradient of the negative log-likelihood in one sweep, the base standard normal: log_prob (n,) and sum =
// -sum_i event_weights[i] log_prob[i], with the gradients of that sum as in maf_backward. Rows go through all blocks
// and back while their hidden units are in cache, so that these are computed once.
template <class T>
void maf_likelihood(const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
                    Rows<const T> in, Rows<const T> context, Rows<const T> event_weights, int threads, T* log_prob,
                    T* sum, T* in_gradient, T* context_gradient, const std::vector<MafBlock<T>>& gradients);

}  // namespace hepgen
