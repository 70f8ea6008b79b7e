// How a flow is laid out for its kernels, and its weights brought into that layout.
#include <algorithm>

#include "hepgen/cuda/maf_parameters.hpp"
#include "hepgen/cuda/maf_tile.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kPackThreads = 256;

// A block packs a part of a flow block's weights: of every layer as it stands and transposed, masked ones as zero.
template <class T>
HEPGEN_KERNEL(kPackThreads, 1)
maf_pack_kernel(MafShape shape, MafLayout layout, const T* weights, T* packed) {
    const UnitTables units = make_unit_tables(shape, layout, shared_memory<int>());
    const ParameterPlaces places(shape);
    weights += blockIdx.y * places.size;
    packed += blockIdx.y * layout.packed_size;
    const int first = int(blockIdx.x * blockDim.x + threadIdx.x), step = int(gridDim.x * blockDim.x);
    for (int layer = 1; layer <= shape.hidden + 1; ++layer) {
        const int width = shape.padded[layer], seen = shape.padded[layer - 1];
        T *forward = packed + layout.forward[layer], *transposed = packed + layout.transposed[layer];
        for (int i = first; i < width * seen; i += step) {
            const int at = i / seen, input = i % seen;
            const std::int64_t place = places.weight(units, layer, at, input);
            const T w = place >= 0 && units.sees(layer, at, input) ? weights[place] : T(0);
            forward[packed_place(at, input, seen / 8)] = w;
            transposed[packed_place(input, at, width / 8)] = w;
        }
        for (int at = first; at < width; at += step) {
            const int unit = units.unit(layer, at);
            packed[layout.biases[layer] + at] = unit < 0 ? T(0) : weights[places.bias(layer) + unit];
        }
    }
}

int padded_units(const MafShape& shape, int layer, bool spread) {
    if (!spread) return 8 * tiles_for(shape.widths[layer]);
    int tiles = 0;
    for (int g = 0; g < shape.features; ++g)
        tiles += tiles_for(units_below(shape, layer, g + 1) - units_below(shape, layer, g));
    return 8 * tiles;
}

// Rows for the units of any one degree.
int largest_degree(const MafShape& shape, int layer) {
    int tiles = 0;
    for (int g = 0; g < shape.features; ++g)
        tiles = std::max(tiles, tiles_for(units_below(shape, layer, g + 1) - units_below(shape, layer, g)));
    return 8 * tiles;
}

MafLayout make_layout(const MafShape& shape, Pass pass, bool passing) {
    MafLayout layout{};
    int row = 0;
    const auto take_rows = [&row](int count) { return (row += count) - count; };
    const auto take = [](std::int64_t& size, std::int64_t count) { return (size += count) - count; };
    const bool backward = pass != Pass::apply;
    layout.groups = backward ? kBackwardGroups : kApplyGroups;
    layout.passing = passing;
    for (int layer = 0; layer <= shape.hidden + 1; ++layer) {
        const bool one_degree = layout.passing && layer == shape.hidden;
        layout.rows[layer] = layout.deltas[layer] =
            take_rows(one_degree ? largest_degree(shape, layer) : shape.padded[layer]);
        layout.tiles[layer + 1] = layout.tiles[layer] + shape.padded[layer] / 8;
        if (layer == 0) continue;
        const std::int64_t size = std::int64_t(shape.padded[layer]) * shape.padded[layer - 1];
        layout.forward[layer] = take(layout.packed_size, size);
        layout.transposed[layer] = take(layout.packed_size, size);
        layout.biases[layer] = take(layout.packed_size, shape.padded[layer]);
        layout.sums[layer] = take(layout.sums_size, size);
        layout.bias_sums[layer] = take(layout.sums_size, shape.padded[layer]);
    }
    if (pass == Pass::inverse_backward) {
        for (int layer = 2; layer <= shape.hidden; ++layer) layout.deltas[layer] = take_rows(shape.padded[layer]);
    }
    const int units = row;
    layout.state = take_rows(shape.features);
    layout.context_gradient = take_rows(backward ? shape.context : 0);
    layout.row_count =
        backward ? std::max(row, units + 8) : row;  // sums for the weights' gradients read 16 units at a time
    return layout;
}

// As many warps as shared memory has room for, so that the thread blocks that run at once come out even.
MafPlan spread_over(const MafLayout& layout, int largest, std::size_t element, const MafShape& shape, std::int64_t n) {
    const std::size_t tables = (MafTables::size(shape, layout) + 3) / 4 * 4 * sizeof(int), limit = shared_limit();
    const int each = layout.groups * kGroup;  // events of a warp
    const auto elements = [&](int warps) { return std::int64_t(layout.row_count) * (each * warps + 8); };
    const auto fits = [&](int warps) { return tables + element * elements(warps) <= limit; };
    int most = largest;
    while (most > 1 && !fits(most)) --most;
    const bool global = !fits(most);
    if (global) most = largest;
    const std::int64_t warps = (std::max<std::int64_t>(n, 1) + each - 1) / each, processors = sm_count();
    const std::int64_t rounds = (warps + processors * most - 1) / (processors * most);
    MafPlan plan{};
    plan.layout = layout;
    plan.warps = int((warps + processors * rounds - 1) / (processors * rounds));
    plan.tiles = int((warps + plan.warps - 1) / plan.warps);
    plan.blocks = int(std::min<std::int64_t>(plan.tiles, processors));
    plan.shared = tables + (global ? 0 : element * elements(plan.warps));
    plan.global = global ? plan.blocks * elements(plan.warps) : 0;
    return plan;
}

}  // namespace

MafShape maf_shape(int features, int context, int blocks, const std::vector<int>& hidden, int activation,
                   double bound) {
    MafShape shape{};
    shape.features = features;
    shape.context = context;
    shape.blocks = blocks;
    shape.hidden = int(hidden.size());
    shape.activation = activation;
    shape.bound = bound;
    shape.widths[0] = context + features;
    std::copy(hidden.begin(), hidden.end(), shape.widths + 1);
    shape.widths[shape.hidden + 1] = 2 * features;
    for (int layer = 0; layer <= shape.hidden + 1; ++layer) {
        const bool inner = layer > 0 && layer <= shape.hidden;
        shape.spread[layer] = inner && 2 * padded_units(shape, layer, true) <= 3 * shape.widths[layer] + 16;
        shape.padded[layer] = padded_units(shape, layer, shape.spread[layer]);
    }
    return shape;
}

template <class T>
MafPlan maf_plan(const MafShape& shape, Pass pass, std::int64_t n) {
    const int warps = pass == Pass::apply ? kApplyWarps : kBackwardWarps;
    const auto spread = [&](bool passing) {
        return spread_over(make_layout(shape, pass, passing), warps, sizeof(T), shape, n);
    };
    const MafPlan plan = spread(pass == Pass::apply && shape.spread[shape.hidden]);
    return plan.layout.passing && plan.global > 0 ? spread(false) : plan;
}

template <class T>
MafTask<T> maf_task(const MafFlow<T>& flow, const MafPlan& plan, T* workspace, Stream stream) {
    const MafShape& shape = flow.shape;
    const MafLayout& layout = plan.layout;
    const std::size_t tables = sizeof(int) * UnitTables::size(shape, layout);
    const unsigned parts = unsigned(std::clamp<std::int64_t>(layout.packed_size / 2 / (4 * kPackThreads), 1, 64));
    launch(maf_pack_kernel<T>, Grid{parts, unsigned(shape.blocks)}, kPackThreads, tables, stream, shape, layout,
           flow.weights, workspace);
    T* tile = plan.global > 0 ? workspace + shape.blocks * layout.packed_size : nullptr;
    return {shape, layout, workspace, flow.orders, flow.context, flow.n, plan.tiles, tile};
}

template <class T>
std::size_t maf_workspace(const MafFlow<T>& flow, bool backward, bool weights_wanted) {
    const Pass pass = !backward ? Pass::apply : flow.inverse ? Pass::inverse_backward : Pass::forward_backward;
    const MafPlan plan = maf_plan<T>(flow.shape, pass, flow.n);
    const std::int64_t sums = backward && weights_wanted ? plan.blocks * plan.layout.sums_size : 0;
    return flow.shape.blocks * (plan.layout.packed_size + sums) + plan.global;
}

#define HEPGEN_FOR(T)                                                            \
    template MafPlan maf_plan<T>(const MafShape&, Pass, std::int64_t);           \
    template MafTask<T> maf_task(const MafFlow<T>&, const MafPlan&, T*, Stream); \
    template std::size_t maf_workspace(const MafFlow<T>&, bool, bool);
HEPGEN_FOR(float)
HEPGEN_FOR(double)
#undef HEPGEN_FOR

}  // namespace hepgen::cuda
