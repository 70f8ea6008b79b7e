// Panels of a network's layers, and what goes into and comes out of them.
#pragma once

#include <algorithm>
#include <deque>
#include <numeric>
#include <vector>

#include "hepgen/panels.hpp"

namespace hepgen {

class PanelMaker {
  public:
    PanelMaker(int lanes, int most_rows) : lanes(lanes), most_rows(most_rows) {}
    PanelMaker(const PanelMaker&) = delete;  // what it hands out points into it
    PanelMaker& operator=(const PanelMaker&) = delete;

    // Rows [begin, end), each summing over [from, to), in panels of nearly equal height.
    Panels make(int begin, int end, int from, int to, bool biased);

    // Room for the sums of a layer's biases.
    std::size_t make_bias_sums(int units);

    const int lanes, most_rows;
    std::size_t packed_size = 0, sums_size = 0;

  private:
    std::deque<std::vector<Panel>> panels_;  // a deque, for what it holds stays where it is
};

// A row-major weight matrix of which unit o sees the first prefix[o] inputs, all where prefix is null.
template <class T>
struct LayerWeights {
    const T *matrix, *bias;
    int width;
    const int* prefix;

    const T* row(int unit) const { return matrix + std::size_t(unit) * width; }
    int seen(int unit) const { return prefix ? prefix[unit] : width; }
};

template <class T>
void pack_panel(const Panel& p, const LayerWeights<T>& layer, T* packed) {
    for (int r = 0; r < p.count; ++r) {
        const int seen = std::min(layer.seen(p.first + r), p.length);
        const T* row = layer.row(p.first + r);
        T* to = packed + p.weights + r;
        for (int k = 0; k < seen; ++k) to[k * p.count] = row[k];
        for (int k = seen; k < p.length; ++k) to[k * p.count] = T(0);
        packed[p.bias + r] = layer.bias[p.first + r];
    }
}

// The panel's rows are inputs of the layer, its sums run over the layer's units.
template <class T>
void pack_transposed(const Panel& p, const LayerWeights<T>& layer, T* packed) {
    T* to = packed + p.weights;
    for (int unit = p.from; unit < p.from + p.length; ++unit, to += p.count) {
        const int seen = std::clamp(layer.seen(unit) - p.first, 0, p.count);
        std::copy_n(layer.row(unit) + p.first, seen, to);
        std::fill(to + seen, to + p.count, T(0));
    }
}

// The gradients of row r's weights from the panel's sums; row has room for a vector more than `seen`.
template <class T>
void unpack_row(const Panel& p, int r, std::size_t seen, int lanes, const T* sums, T* row) {
    const T* from = sums + p.sums + r * lanes;
    for (std::size_t k = 0; k < seen; k += lanes, from += p.count * lanes) std::copy_n(from, lanes, row + k);
}

template <class T>
T unpack_bias(const T* sums, int lanes) {
    return std::accumulate(sums, sums + lanes, T(0));
}

// Adds sums of `groups` groups, `stride` apart, in order into the first.
template <class T>
void add_groups(T* sums, std::size_t size, std::size_t groups, std::size_t stride) {
    for (std::size_t g = 1; g < groups; ++g) {
        const T* more = sums + g * stride;
        for (std::size_t i = 0; i < size; ++i) sums[i] += more[i];
    }
}

}  // namespace hepgen
