// The flow of hepgen/maf.hpp on a GPU. All pointers are to device memory. Nothing waits for the device, nothing is
// allocated: the caller hands over a workspace of the size that maf_workspace gives. A row's results do not depend on
// the other rows, gradients of the weights are partial sums of fixed groups of rows, added in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hepgen/cuda/stream.hpp"

namespace hepgen::cuda {

inline constexpr int kMafLayers = 8;  // hidden layers at most

// Layer 0 is the context and then the columns in the block's order, 1 ... hidden, the last the parameters (shift, raw)
// of each column. Units lie by degree at positions 0 ... padded - 1; where it costs little every degree begins at a
// multiple of 8, so that a tile of the matrix units belongs to one degree.
struct MafShape {
    int features, context, blocks, hidden;
    int widths[kMafLayers + 2], padded[kMafLayers + 2];
    bool spread[kMafLayers + 2];
    int activation;  // 0 relu, 1 tanh, 2 elu
    double bound;
};

MafShape maf_shape(int features, int context, int blocks, const std::vector<int>& hidden, int activation, double bound);

// element (i, j) is at[i * row + j * column]
template <class T>
struct MafRows {
    const T* at;
    std::int64_t row, column;
};

template <class T>
struct MafFlow {
    MafShape shape;
    const T* weights;            // flat, block after block, as in Python
    const std::int64_t* orders;  // (blocks, features)
    MafRows<T> context;          // (n, context)
    std::int64_t n;
    bool inverse;
};

// record: (blocks + 1, features, n), the columns between the blocks, the data first; null where not wanted
template <class T>
struct MafApply {
    MafRows<T> in;  // (n, features)
    T *out, *log_det, *record;
    T* log_prob;  // on a normal base, null where not wanted
};

template <class T>
struct MafGradient {
    const T* record;
    MafRows<T> out, log_det;        // gradients of the results, where event_weights is null
    MafRows<T> event_weights;       // else those of -sum_i w_i log_prob_i
    T *events, *context, *weights;  // (n, features), (n, context), flat; null where not wanted
};

// Elements of T. backward: for maf_backward, with the sums of the weights' gradients where they are wanted.
template <class T>
std::size_t maf_workspace(const MafFlow<T>& flow, bool backward, bool weights_wanted);

template <class T>
void maf_apply(const MafFlow<T>& flow, const MafApply<T>& task, T* workspace, Stream stream);

template <class T>
void maf_backward(const MafFlow<T>& flow, const MafGradient<T>& task, T* workspace, Stream stream);

}  // namespace hepgen::cuda
