#include <algorithm>

#include "hepgen/cuda/maf.hpp"
#include "hepgen/cuda/maf_tile.hpp"

namespace hepgen::cuda {
namespace {

template <class T>
using ApplyTile = WarpTile<T, kApplyGroups>;

template <bool passing, class T>
HEPGEN_FN void forward_block(ApplyTile<T>& w, T& log_det) {
    w.for_columns(w.shape.features, [&](int j) { w.column(j)[w.mine()] = w.state(w.order(j))[w.mine()]; });
    w.template compute_all<passing>();
    w.for_columns(w.shape.features, [&](int j) {
        const AffineMap<T> map = w.map(j);
        const T change = -map.log_scale();
        w.state(w.order(j))[w.mine()] = (w.column(j)[w.mine()] - map.shift) * exponential(change);
        log_det += change;
    });
    __syncwarp();
}

template <bool passing, class T>
HEPGEN_FN void inverse_block(ApplyTile<T>& w, T& log_det) {
    const MafShape& shape = w.shape;
    w.clear(w.layout.rows[0] + shape.context, shape.features);
    for (int layer = 1; layer <= shape.hidden; ++layer) {
        if (!shape.spread[layer]) w.clear(w.layout.rows[layer], shape.padded[layer]);
    }
    __syncwarp();
    for (int j = 0; j < shape.features; ++j) {
        w.template compute_column<passing>(j);
        if (lane() < w.events) {
            const AffineMap<T> map = w.map(j);
            const T change = map.log_scale();
            T* z = w.state(w.order(j)) + w.mine();
            *z = w.column(j)[w.mine()] = *z * exponential(change) + map.shift;
            log_det += change;
        }
        __syncwarp();
    }
}

template <class T>
HEPGEN_FN void keep_state(const ApplyTile<T>& w, T* record, int number) {
    if (record == nullptr || !w.there()) return;
    w.for_columns(w.shape.features, [&](int j) {
        record[(std::int64_t(number) * w.shape.features + j) * w.task.n + w.event + w.mine()] = w.state(j)[w.mine()];
    });
}

// Of an event's columns, which lie in all parts of the warp.
template <class T>
HEPGEN_FN T sum_of_parts(const ApplyTile<T>& w, T x) {
    return w.parts == 1 ? x : x + __shfl_xor_sync(kFullMask, x, w.events % kWarp);
}

template <class T>
HEPGEN_FN void finish(const ApplyTile<T>& w, const MafApply<T>& to, T log_det) {
    const int features = w.shape.features;
    log_det = sum_of_parts(w, log_det);
    T squares = T(0);
    w.for_columns(features, [&](int j) {
        const T x = w.state(j)[w.mine()];
        squares += x * x;
        if (to.out != nullptr && w.there()) to.out[(w.event + w.mine()) * features + j] = x;
    });
    squares = sum_of_parts(w, squares);
    if (lane() >= w.events || !w.there()) return;
    if (to.log_det != nullptr) to.log_det[w.event + w.mine()] = log_det;
    if (to.log_prob != nullptr)
        to.log_prob[w.event + w.mine()] = log_det - T(0.5) * (squares + features * T(1.8378770664093453));
}

// passing: see MafLayout
template <class T, bool inverse, bool passing, bool global>
HEPGEN_KERNEL(kApplyWarps* kWarp, 1)
maf_kernel(MafTask<T> task, MafApply<T> to) {
    const MafTables tables = make_tables(task.shape, task.layout, task.orders, shared_memory<int>());
    ApplyTile<T> w(task, tables, tile_memory<T, kApplyGroups, global>(task));
    for (int number = int(blockIdx.x); number < task.tiles; number += int(gridDim.x)) {
        w.go_to(number);
        w.load_context();
        w.for_columns(task.shape.features, [&](int j) { w.state(j)[w.mine()] = w.loaded(to.in, j); });
        __syncwarp();
        T log_det = T(0);
        const int blocks = task.shape.blocks;
        for (int i = 0; i < blocks; ++i) {
            w.block = inverse ? blocks - 1 - i : i;
            keep_state(w, to.record, inverse ? w.block + 1 : w.block);
            if constexpr (inverse) {
                inverse_block<passing>(w, log_det);
            } else {
                forward_block<passing>(w, log_det);
            }
        }
        keep_state(w, to.record, inverse ? 0 : blocks);
        finish(w, to, log_det);
        __syncwarp();
    }
}

template <class T>
using ApplyKernel = void (*)(MafTask<T>, MafApply<T>);

template <class T, bool inverse>
ApplyKernel<T> apply_kernel(bool passing, bool global) {
    if (passing) return maf_kernel<T, inverse, true, false>;
    return global ? maf_kernel<T, inverse, false, true> : maf_kernel<T, inverse, false, false>;
}

}  // namespace

template <class T>
void maf_apply(const MafFlow<T>& flow, const MafApply<T>& to, T* workspace, Stream stream) {
    if (flow.n == 0) return;
    const MafPlan plan = maf_plan<T>(flow.shape, Pass::apply, flow.n);
    const MafTask<T> task = maf_task(flow, plan, workspace, stream);
    const auto kernel =
        (flow.inverse ? apply_kernel<T, true> : apply_kernel<T, false>)(plan.layout.passing, plan.global > 0);
    launch(kernel, Grid{unsigned(plan.blocks)}, plan.warps * kWarp, plan.shared, stream, task, to);
}

template void maf_apply(const MafFlow<float>&, const MafApply<float>&, float*, Stream);
template void maf_apply(const MafFlow<double>&, const MafApply<double>&, double*, Stream);

}  // namespace hepgen::cuda
