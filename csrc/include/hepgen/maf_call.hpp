// What the calls on a flow have in common: packed weights, tiles, groups of rows and what they keep.
#pragma once

#include <algorithm>
#include <vector>

#include "hepgen/aligned.hpp"
#include "hepgen/maf.hpp"
#include "hepgen/maf_plan.hpp"
#include "hepgen/row_groups.hpp"

namespace hepgen {

template <class T>
MafKernels<T> active_maf_kernels();

// The parts of one call that do not change from tile to tile.
template <class T>
struct MafCall {
    const MafShape& shape;
    const std::vector<MafBlock<const T>>& blocks;
    MafKernels<T> functions;
    PlanMaker maker;
    std::size_t n, padded;
    std::vector<int> orders;
    Aligned<T> packed;

    MafCall(const MafShape& shape_, PlanKind kind, const std::vector<MafBlock<const T>>& blocks_, std::size_t n_)
        : shape(shape_),
          blocks(blocks_),
          functions(active_maf_kernels<T>()),
          maker(shape_, kind, functions.lanes, functions.most_rows),
          n(n_),
          padded(round_up(n_, kTileEvents)),
          orders(shape_.orders, shape_.orders + shape_.blocks * shape_.features),
          packed(allocate<T>(maker.plan.packed_size * shape_.blocks)) {}

    void pack(std::size_t block) { maker.pack(blocks[block], block_weights(int(block))); }
    T* block_weights(int block) { return packed.get() + block * maker.plan.packed_size; }

    // What all tiles of a block have in common, with columns `stride` apart.
    MafTile<T> tile(int block, std::size_t stride, T* scratch) {
        MafTile<T> tile{};
        tile.plan = &maker.plan;
        tile.packed = block_weights(block);
        tile.order = orders.data() + std::size_t(block) * shape.features;
        tile.stride = tile.state_stride = stride;
        tile.values = tile.scratch = scratch;
        return tile;
    }
};

// Gradients of the weights, summed per group of rows.
template <class T>
struct MafSums {
    std::size_t block_size, flow_size;
    RowGroups groups;
    Aligned<T> sums;

    MafSums(const MafCall<T>& call, bool wanted)
        : block_size(wanted ? call.maker.plan.sums_size : 0),
          flow_size(block_size * call.shape.blocks),
          groups(call.n, flow_size * sizeof(T)),
          sums(allocate<T>(flow_size * groups.count)) {
        if (call.n == 0) std::fill(sums.get(), sums.get() + flow_size, T(0));
    }

    T* at(std::size_t group, int block) {
        return block_size ? sums.get() + group * flow_size + block * block_size : nullptr;
    }

    void finish(MafCall<T>& call, std::size_t block, const MafBlock<T>& gradients) {
        call.maker.unpack_sums(sums.get() + block * block_size, groups.count, flow_size, gradients);
    }
};

}  // namespace hepgen
