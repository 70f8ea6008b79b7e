#include <algorithm>

#include "hepgen/cuda/maf_parameters.hpp"
#include "hepgen/cuda/maf_tile.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kReduceThreads = 128;

// The backward pass of a warp's events: rows `state` hold the gradient of the columns.
template <class T>
struct BackwardTile : WarpTile<T, kBackwardGroups> {
    using Base = WarpTile<T, kBackwardGroups>;
    using Base::Base;
    using Base::layout;
    using Base::mine;
    using Base::shape;
    using Base::stride;

    T log_det_gradient;
    bool context_wanted;

    // Adjoints of the units in `count` tiles from `first` on, of which [keep, keep_end) are kept: of the columns they
    // are added to their gradients.
    template <int count>
    HEPGEN_FN void adjoint_strip(int layer, int first, int from, int keep, int keep_end) const {
        T sums[kBackwardGroups][count][4] = {};
        const int steps = shape.padded[layer + 1] / 8;
        const T* weights = this->packed() + layout.transposed[layer + 1] + std::int64_t(first) * steps * 64;
        multiply<kBackwardGroups, count>(sums, this->deltas(layer + 1), stride, weights, steps, from, steps);
        Base::template for_elements<count>([&](int group, int i, int r) {
            const int unit = 8 * (first + i) + lane() % 4 * 2 + r % 2, event = group * kGroup + lane() / 4 * 2 + r / 2;
            if (unit < keep || unit >= keep_end) return;
            if (layer == 0) {
                add_to_input(unit, event, sums[group][i][r]);
            } else {
                const T value = this->values(layer)[unit * stride + event];
                this->deltas(layer)[unit * stride + event] =
                    through_activation(sums[group][i][r], value, shape.activation);
            }
        });
    }

    HEPGEN_FN void add_to_input(int unit, int event, T x) const {
        if (unit >= shape.context) {
            this->state(this->order(unit - shape.context))[event] += x;
        } else if (context_wanted) {
            this->own(layout.context_gradient)[unit * stride + event] += x;
        }
    }

    HEPGEN_FN void adjoint_strips(int layer, int begin, int end, int from, int keep, int keep_end) const {
        for (int i = begin; i < end; i += kStrip) {
            with_count(min(end - i, kStrip),
                       [&](auto n) { adjoint_strip<decltype(n)::tiles>(layer, i, from, keep, keep_end); });
        }
    }

    // All of a layer, where all adjoints of the next are known.
    HEPGEN_FN void layer_adjoint(int layer) const {
        const int units = layer == 0 ? shape.widths[0] : shape.padded[layer], tiles = tiles_for(units);
        const int* first = this->tables.first + layout.tiles[layer];
        for (int i = 0; i < tiles;) {
            const int most = first[i] + 1 + (shape.padded[layer + 1] / 8 - first[i]) / 8;
            int count = 1;
            while (count < kStrip && i + count < tiles && first[i + count] <= most) ++count;
            adjoint_strips(layer, i, i + count, first[i], 0, units);
            i += count;
        }
        __syncwarp();
    }

    // Adjoints of the hidden units of degree j.
    HEPGEN_FN void column_adjoint(int j) const {
        for (int layer = shape.hidden; layer > 0; --layer) {
            const int keep = this->stop(layer, j - 1), end = this->stop(layer, j);
            adjoint_strips(layer, keep / 8, tiles_for(end), this->stop(layer + 1, j - 1) / 8, keep, end);
            __syncwarp();
        }
    }

    HEPGEN_FN void keep_adjoint(int j, T shift, T raw) const {
        T* to = this->parameters(j) + mine();
        to[0] = shift;
        to[stride] = raw;
    }

    // sums[unit][input] over the events of the thread block, added to or, the first time, written; a lane always has
    // the same.
    HEPGEN_FN void add_weight_gradients(int layer, T* sums, bool first_time) const {
        __syncthreads();
        const int warps = int(blockDim.x) / kWarp, events = warps * Base::events, width = shape.padded[layer];
        const T* deltas = this->tile + layout.deltas[layer] * stride;
        const int* last = this->tables.last + layout.tiles[layer];
        int turn = 0;
        for (int row = 0; row < width; row += 16) {
            const int seen = max(last[row / 8], row + 8 < width ? last[row / 8 + 1] : 0);
            for (int i = 0; i < seen; i += kStrip) {
                if (turn++ % warps != warp()) continue;
                with_count(min(seen - i, kStrip), [&](auto n) {
                    add_sums<decltype(n)::tiles>(layer, deltas, row, i, events, sums + layout.sums[layer], first_time);
                });
            }
        }
        for (int unit = warp(); unit < width; unit += warps) {
            T sum = T(0);
            for (int e = lane(); e < events; e += kWarp) sum += deltas[unit * stride + e];
            sum = warp_sum(sum);
            T* to = sums + layout.bias_sums[layer] + unit;
            if (lane() == 0) *to = first_time ? sum : *to + sum;
        }
        __syncthreads();
    }

    template <int count>
    HEPGEN_FN void add_sums(int layer, const T* deltas, int row, int first, int events, T* to, bool first_time) const {
        T sums[count][4] = {};
        const T* seen = this->tile + (layout.rows[layer - 1] + 8 * first) * stride;
        multiply_events<count>(sums, deltas + row * stride, seen, stride, events);
        const int inputs = shape.padded[layer - 1], width = shape.padded[layer];
#pragma unroll
        for (int i = 0; i < count; ++i) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const int unit = row + lane() / 4 + r / 2 * 8;
                T* at = to + std::int64_t(unit) * inputs + 8 * (first + i) + lane() % 4 * 2 + r % 2;
                if (unit < width) *at = first_time ? sums[i][r] : *at + sums[i][r];
            }
        }
    }
};

template <class T>
HEPGEN_FN T recorded(const BackwardTile<T>& w, const T* record, int number, int column) {
    return w.there() ? record[(std::int64_t(number) * w.shape.features + column) * w.task.n + w.event + w.mine()]
                     : T(0);
}

// The block's columns on the side of the data, and its values.
template <class T>
HEPGEN_FN void recompute(BackwardTile<T>& w, const T* record) {
    w.for_columns(w.shape.features, [&](int j) { w.column(j)[w.mine()] = recorded(w, record, w.block, w.order(j)); });
    w.compute_all();
}

template <class T>
HEPGEN_FN void forward_backward(BackwardTile<T>& w, const T* record, T* sums, bool first_time) {
    const MafShape& shape = w.shape;
    recompute(w, record);
    w.for_columns(shape.features, [&](int j) {
        const AffineMap<T> map = w.map(j);
        const T factor = map.clip_factor();
        const int column = w.order(j);
        T* g = w.state(column) + w.mine();
        const T z = recorded(w, record, w.block + 1, column), in = *g * exponential(-map.raw * factor);
        w.keep_adjoint(j, -in, -(*g * z + w.log_det_gradient) * factor * factor);
        *g = in;
    });
    __syncwarp();
    for (int layer = shape.hidden; layer >= 0; --layer) {
        if (sums != nullptr) w.add_weight_gradients(layer + 1, sums, first_time);
        w.layer_adjoint(layer);
    }
}

// From the last column to the first: what reaches a column through later ones is complete once the units of higher
// degree have their adjoints, and these wait for later columns only. Adjoints of the first layer take the place of its
// values, which are computed again for the gradients of the second's weights.
template <class T>
HEPGEN_FN void inverse_backward(BackwardTile<T>& w, const T* record, T* sums, bool first_time) {
    const MafShape& shape = w.shape;
    recompute(w, record);
    for (int layer = 2; layer <= shape.hidden; ++layer) {
        if (!shape.spread[layer]) w.clear(w.layout.deltas[layer], shape.padded[layer]);
    }
    __syncwarp();
    for (int j = shape.features - 1; j >= 0; --j) {
        const int at = shape.context + j, column = w.order(j);
        const T z = recorded(w, record, w.block + 1, column);
        w.adjoint_strips(0, at / 8, at / 8 + 1, w.stop(1, j) / 8, at, at + 1);
        __syncwarp();
        if (lane() < w.events) {
            const AffineMap<T> map = w.map(j);
            const T factor = map.clip_factor();
            T* g = w.state(column) + w.mine();
            const T in = *g * exponential(map.raw * factor);
            w.keep_adjoint(j, *g, (in * z + w.log_det_gradient) * factor * factor);
            *g = in;
        }
        __syncwarp();
        w.column_adjoint(j);
    }
    if (w.context_wanted) w.adjoint_strips(0, 0, tiles_for(shape.context), 0, 0, shape.context);
    if (sums == nullptr) return;
    for (int layer = shape.hidden + 1; layer > 2; --layer) w.add_weight_gradients(layer, sums, first_time);
    w.add_weight_gradients(1, sums, first_time);
    w.compute_layer(1);
    w.add_weight_gradients(2, sums, first_time);
}

// Gradients of the results.
template <class T>
HEPGEN_FN void start(BackwardTile<T>& w, const MafGradient<T>& task) {
    const int features = w.shape.features;
    w.load_context();
    if (w.context_wanted) w.clear(w.layout.context_gradient, w.shape.context);
    if (task.event_weights.at != nullptr) {
        const T weight = w.loaded(task.event_weights, 0);
        w.log_det_gradient = -weight;
        w.for_columns(features,
                      [&](int j) { w.state(j)[w.mine()] = weight * recorded(w, task.record, w.shape.blocks, j); });
    } else {
        w.log_det_gradient = w.loaded(task.log_det, 0);
        w.for_columns(features, [&](int j) { w.state(j)[w.mine()] = w.loaded(task.out, j); });
    }
    __syncwarp();
}

template <class T>
HEPGEN_FN void finish(const BackwardTile<T>& w, const MafGradient<T>& task) {
    __syncwarp();
    if (w.there()) {
        const std::int64_t event = w.event + w.mine();
        const auto write = [&](T* to, int columns, int row) {
            w.for_columns(columns, [&](int j) { to[event * columns + j] = w.own(row + j)[w.mine()]; });
        };
        if (task.events != nullptr) write(task.events, w.shape.features, w.layout.state);
        if (w.context_wanted) write(task.context, w.shape.context, w.layout.context_gradient);
    }
    __syncwarp();
}

template <class T, bool inverse, bool global>
HEPGEN_KERNEL(kBackwardWarps* kWarp, 1)
maf_backward_kernel(MafTask<T> task, MafGradient<T> to, T* sums) {
    const MafTables tables = make_tables(task.shape, task.layout, task.orders, shared_memory<int>());
    BackwardTile<T> w(task, tables, tile_memory<T, kBackwardGroups, global>(task));
    w.context_wanted = to.context != nullptr;
    const int blocks = task.shape.blocks;
    for (int number = int(blockIdx.x); number < task.tiles; number += int(gridDim.x)) {
        w.go_to(number);
        start(w, to);
        for (int i = 0; i < blocks; ++i) {
            w.block = inverse ? i : blocks - 1 - i;
            T* to_sums = sums == nullptr ? nullptr
                                         : sums + (std::int64_t(blockIdx.x) * blocks + w.block) * task.layout.sums_size;
            const bool first_time = number == int(blockIdx.x);
            if constexpr (inverse) {
                inverse_backward(w, to.record, to_sums, first_time);
            } else {
                forward_backward(w, to.record, to_sums, first_time);
            }
        }
        finish(w, to);
    }
}

// The gradient of a parameter is the sum over the thread blocks, in order.
template <class T>
HEPGEN_KERNEL(kReduceThreads, 4)
maf_reduce_kernel(MafShape shape, MafLayout layout, const T* sums, int parts, T* gradients) {
    const UnitTables units = make_unit_tables(shape, layout, shared_memory<int>());
    const ParameterPlaces places(shape);
    const std::int64_t stride = shape.blocks * layout.sums_size;
    sums += blockIdx.y * layout.sums_size;
    gradients += blockIdx.y * places.size;
    const auto total = [&](std::int64_t at) {
        T sum = T(0);
#pragma unroll 8
        for (int part = 0; part < parts; ++part) sum += sums[part * stride + at];
        return sum;
    };
    const int first = int(blockIdx.x * blockDim.x + threadIdx.x), step = int(gridDim.x * blockDim.x);
    for (int layer = 1; layer <= shape.hidden + 1; ++layer) {
        const int width = shape.padded[layer], seen = shape.padded[layer - 1];
        for (int i = first; i < width * seen; i += step) {
            const int at = i / seen, input = i % seen;
            const std::int64_t place = places.weight(units, layer, at, input);
            if (place >= 0) gradients[place] = units.sees(layer, at, input) ? total(layout.sums[layer] + i) : T(0);
        }
        for (int at = first; at < width; at += step) {
            const int unit = units.unit(layer, at);
            if (unit >= 0) gradients[places.bias(layer) + unit] = total(layout.bias_sums[layer] + at);
        }
    }
}

template <class T>
using BackwardKernel = void (*)(MafTask<T>, MafGradient<T>, T*);

template <class T>
BackwardKernel<T> backward_kernel(bool inverse, bool global) {
    if (inverse) return global ? maf_backward_kernel<T, true, true> : maf_backward_kernel<T, true, false>;
    return global ? maf_backward_kernel<T, false, true> : maf_backward_kernel<T, false, false>;
}

}  // namespace

template <class T>
void maf_backward(const MafFlow<T>& flow, const MafGradient<T>& to, T* workspace, Stream stream) {
    if (flow.n == 0) return;
    const MafShape& shape = flow.shape;
    const MafPlan plan = maf_plan<T>(shape, flow.inverse ? Pass::inverse_backward : Pass::forward_backward, flow.n);
    const MafLayout& layout = plan.layout;
    const MafTask<T> task = maf_task(flow, plan, workspace, stream);
    T* sums = to.weights == nullptr ? nullptr : workspace + shape.blocks * layout.packed_size + plan.global;
    const auto kernel = backward_kernel<T>(flow.inverse, plan.global > 0);
    launch(kernel, Grid{unsigned(plan.blocks)}, plan.warps * kWarp, plan.shared, stream, task, to, sums);
    if (sums == nullptr) return;
    const std::int64_t largest = *std::max_element(shape.padded, shape.padded + shape.hidden + 2);
    const Grid grid{unsigned(std::clamp<std::int64_t>(largest * largest / kReduceThreads, 1, 256)),
                    unsigned(shape.blocks)};
    const std::size_t tables = sizeof(int) * UnitTables::size(shape, layout);
    launch(maf_reduce_kernel<T>, grid, kReduceThreads, tables, stream, shape, layout, sums, plan.blocks, to.weights);
}

template void maf_backward(const MafFlow<float>&, const MafGradient<float>&, float*, Stream);
template void maf_backward(const MafFlow<double>&, const MafGradient<double>&, double*, Stream);

}  // namespace hepgen::cuda
