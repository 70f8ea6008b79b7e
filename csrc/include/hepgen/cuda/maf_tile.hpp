// One flow block applied by a warp to its 16 or 32 events, whose activations lie in a tile of the thread block,
// [unit][event]. Warps share weights through the cache only, so that they never wait for each other but for the
// weights' gradients.
#pragma once

#include "hepgen/cuda/maf.hpp"
#include "hepgen/cuda/maf_products.hpp"
#include "hepgen/host_device.hpp"

namespace hepgen::cuda {

// Where things are: rows of a tile, and elements of a block's packed weights and of its sums.
struct MafLayout {
    int rows[kMafLayers + 2];    // of a layer's values
    int deltas[kMafLayers + 2];  // of its adjoints; the same where they replace the values
    int state, context_gradient, row_count;
    bool passing;  // of the last hidden layer the units of one degree have rows, which the next degree takes over
    int groups;    // of 16 events that a warp takes
    std::int64_t forward[kMafLayers + 2], transposed[kMafLayers + 2], biases[kMafLayers + 2], packed_size;
    std::int64_t sums[kMafLayers + 2], bias_sums[kMafLayers + 2], sums_size;
    int tiles[kMafLayers + 3];  // of 8 units in the layers before
};

template <class T>
struct MafTask {
    MafShape shape;
    MafLayout layout;
    const T* packed;
    const std::int64_t* orders;
    MafRows<T> context;
    std::int64_t n;
    int tiles;       // of so many events as a thread block has
    T* global_tile;  // where a tile does not fit into shared memory
};

HEPGEN_HD inline int units_below(int width, int lowest, int features, int degree) {
    const int steps = degree - lowest;
    return steps <= 0 ? 0 : int((std::int64_t(steps) * width + features - lowest - 1) / (features - lowest));
}

// Of degree below `degree`; unit_stops of hepgen/maf_plan.hpp.
HEPGEN_HD inline int units_below(const MafShape& shape, int layer, int degree) {
    return units_below(shape.widths[layer], shape.context > 0 || shape.features == 1 ? 0 : 1, shape.features, degree);
}

HEPGEN_HD inline int tiles_for(int units) {
    return (units + 7) / 8;
}

// Integers in shared memory that all warps read.
struct MafTables {
    int* stops;  // (layers, features): positions that a unit of a degree may see or, of its own layer, that end with it
    int* last;   // per tile of units: how many tiles of the layer before it sees
    int* first;  // per tile of units: the first tile of the layer after that sees it
    int* orders;  // (blocks, features)

    HEPGEN_HD static int size(const MafShape& shape, const MafLayout& layout) {
        return (shape.hidden + 2 + shape.blocks) * shape.features + 2 * layout.tiles[shape.hidden + 2];
    }
};

HEPGEN_FN void fill_stops(const MafShape& shape, int layer, int* stops) {
    int end = 0;
    for (int g = 0; g < shape.features; ++g) {
        if (layer == 0) {
            stops[g] = shape.context + g;
        } else if (layer > shape.hidden) {
            stops[g] = 2 * (g + 1);
        } else {
            const int until = units_below(shape, layer, g + 1);
            end = shape.spread[layer] ? end + 8 * tiles_for(until - units_below(shape, layer, g)) : until;
            stops[g] = end;
        }
    }
}

HEPGEN_FN int degree_at(const int* stops, int features, int position) {
    int g = 0;
    while (g < features && stops[g] <= position) ++g;
    return g;
}

HEPGEN_FN MafTables make_tables(const MafShape& shape, const MafLayout& layout, const std::int64_t* orders,
                                int* memory) {
    const int layers = shape.hidden + 2, features = shape.features;
    int* last = memory + layers * features;
    const MafTables to{memory, last, last + layout.tiles[layers], last + 2 * layout.tiles[layers]};
    for (int i = int(threadIdx.x); i < shape.blocks * features; i += int(blockDim.x)) {
        to.orders[i] = int(min(max(orders[i], std::int64_t(0)),
                               std::int64_t(features - 1)));  // what is no column would write anywhere
    }
    for (int layer = int(threadIdx.x); layer < layers; layer += int(blockDim.x))
        fill_stops(shape, layer, to.stops + layer * features);
    __syncthreads();
    for (int layer = 0; layer < layers; ++layer) {
        const int* stops = to.stops + layer * features;
        for (int i = int(threadIdx.x); i < shape.padded[layer] / 8; i += int(blockDim.x)) {
            const int at = layout.tiles[layer] + i;
            if (layer > 0) {
                const int g = min(degree_at(stops, features, 8 * i + 7), features - 1);
                to.last[at] = tiles_for(to.stops[(layer - 1) * features + g]);
            }
            if (layer + 1 < layers) {
                // column j is seen from degree j + 1 on
                const int g = layer == 0 ? max(8 * i - shape.context + 1, 0) : degree_at(stops, features, 8 * i);
                to.first[at] = g > features || (layer > 0 && g == features) ? shape.padded[layer + 1] / 8
                               : g == 0 ? 0
                                        : to.stops[(layer + 1) * features + g - 1] / 8;
            }
        }
    }
    __syncthreads();
    return to;
}

HEPGEN_FN float exponential(float x) {
    return expf(x);
}
HEPGEN_FN double exponential(double x) {
    return exp(x);
}

template <class T>
HEPGEN_FN T activate(T x, int activation) {
    if (activation == 0) return x < T(0) ? T(0) : x;
    if (activation == 1) return tanh(x);
    return x > T(0) ? x : expm1(x);
}

HEPGEN_FN void store_pair(float* to, float x, float y) {
    *reinterpret_cast<float2*>(to) = make_float2(x, y);
}
HEPGEN_FN void store_pair(double* to, double x, double y) {
    *reinterpret_cast<double2*>(to) = make_double2(x, y);
}

// From the gradient of a unit and its value.
template <class T>
HEPGEN_FN T through_activation(T gradient, T value, int activation) {
    if (activation == 0) return value <= T(0) ? T(0) : gradient;
    if (activation == 1) return gradient * (T(1) - value * value);
    return value > T(0) ? gradient : gradient * (value + T(1));
}

// hepgen/maf_bijection.hpp for one event.
template <class T>
struct AffineMap {
    T shift, raw, inverse_bound;

    HEPGEN_FN T clip_factor() const { return T(1) / (fabs(raw) * inverse_bound + T(1)); }
    HEPGEN_FN T log_scale() const { return raw * clip_factor(); }
};

// Between rows: without conflicts between the banks where lanes are 4 rows by 8 events or the other way round.
HEPGEN_FN int tile_stride(int groups) {
    return int(blockDim.x) / kWarp * groups * kGroup + 8;
}

template <class T, int groups>
struct WarpTile {
    static constexpr int events = groups * kGroup,
                         parts = kWarp / events;  // of a warp, each of which takes other columns

    const MafTask<T>& task;
    const MafShape& shape;
    const MafLayout& layout;
    MafTables tables;
    T* tile;  // of the thread block
    int stride;
    std::int64_t event;  // the first of this warp's
    int block = 0;
    int passed = 0;  // units of the last hidden layer before those that have rows

    HEPGEN_FN WarpTile(const MafTask<T>& task_, const MafTables& tables_, T* tile_)
        : task(task_),
          shape(task_.shape),
          layout(task_.layout),
          tables(tables_),
          tile(tile_),
          stride(tile_stride(groups)) {}

    HEPGEN_FN void go_to(int number) { event = (std::int64_t(number) * (int(blockDim.x) / kWarp) + warp()) * events; }

    HEPGEN_FN T* own(int row) const { return tile + row * stride + warp() * events; }
    HEPGEN_FN T* values(int layer) const { return own(layout.rows[layer] - (layer == shape.hidden ? passed : 0)); }
    HEPGEN_FN T* deltas(int layer) const { return own(layout.deltas[layer]); }
    HEPGEN_FN T* column(int j) const { return values(0) + (shape.context + j) * stride; }
    HEPGEN_FN T* state(int j) const { return own(layout.state) + j * stride; }
    HEPGEN_FN T* parameters(int j) const { return values(shape.hidden + 1) + 2 * j * stride; }

    HEPGEN_FN const T* packed() const { return task.packed + block * layout.packed_size; }
    HEPGEN_FN int stop(int layer, int degree) const {
        return degree < 0 ? 0 : tables.stops[layer * shape.features + degree];
    }

    HEPGEN_FN int order(int j) const { return tables.orders[block * shape.features + j]; }

    HEPGEN_FN int mine() const { return lane() % events; }
    HEPGEN_FN bool there() const { return event + mine() < task.n; }

    HEPGEN_FN void clear(int row, int count) const {
        for (int r = lane() / events; r < count; r += parts) own(row + r)[mine()] = T(0);
    }

    // body(j) for all columns, in either half of the warp half of them; the event is mine()
    template <class Body>
    HEPGEN_FN void for_columns(int columns, const Body& body) const {
        for (int j = lane() / events; j < columns; j += parts) body(j);
    }

    HEPGEN_FN T loaded(const MafRows<T>& rows, int j) const {
        return there() ? rows.at[(event + mine()) * rows.row + j * rows.column] : T(0);
    }

    HEPGEN_FN AffineMap<T> map(int j) const {
        return {parameters(j)[mine()], parameters(j)[stride + mine()], T(1 / shape.bound)};
    }

    // Units of `count` tiles from `first` on, of which [keep, keep_end) are kept. They see tiles [begin, end) of the
    // layer before, after those of another call where begin > 0.
    template <int count>
    HEPGEN_FN void strip(int layer, int first, int begin, int end, int keep, int keep_end) const {
        T sums[groups][count][4];
        const int unit = 8 * first + lane() % 4 * 2;
        T* to = values(layer) + unit * stride + lane() / 4 * 2;
        const auto place = [&](int group, int i, int r) { return (8 * i + r % 2) * stride + group * kGroup + r / 2; };
        const auto kept = [&](int i, int r) { return unit + 8 * i + r % 2 >= keep && unit + 8 * i + r % 2 < keep_end; };
        const T* bias = packed() + layout.biases[layer] + unit;
        for_elements<count>([&](int group, int i, int r) {
            sums[group][i][r] = begin > 0 ? to[place(group, i, r)] : __ldg(bias + 8 * i + r % 2);
        });
        const int steps = shape.padded[layer - 1] / 8;
        const T* weights = packed() + layout.forward[layer] + std::int64_t(first) * steps * 64;
        multiply<groups, count>(sums, values(layer - 1), stride, weights, steps, begin, end);
        const bool curved = layer <= shape.hidden && shape.activation != 0;
        const T least = layer <= shape.hidden && !curved ? T(0) : -HUGE_VAL;
        const auto above = [&](int group, int i, int r) {  // events next to each other
            const T x = sums[group][i][r], y = sums[group][i][r + 2];
            store_pair(to + place(group, i, r), x < least ? least : x, y < least ? least : y);  // NaN stays
        };
        if (keep <= 8 * first && keep_end >= 8 * (first + count)) {
            for_elements<count>([&](int group, int i, int r) {
                if (r < 2) above(group, i, r);
            });
        } else {
            for_elements<count>([&](int group, int i, int r) {
                if (r < 2 && kept(i, r)) above(group, i, r);
            });
        }
        if (!curved) return;
#pragma unroll 1
        for (int k = 0; k < 4 * count * groups; ++k) {
            const int group = k / (4 * count), i = k / 4 % count, r = k % 4;
            T* at = to + place(group, i, r);
            if (kept(i, r)) *at = activate(*at, shape.activation);
        }
    }

    // body(group, tile, register) for what a lane holds of a strip
    template <int count, class Body>
    HEPGEN_FN static void for_elements(const Body& body) {
#pragma unroll
        for (int group = 0; group < groups; ++group) {
#pragma unroll
            for (int i = 0; i < count; ++i) {
#pragma unroll
                for (int r = 0; r < 4; ++r) body(group, i, r);
            }
        }
    }

    // Units of tiles [first, last), of which [keep, keep_end) are kept: see strip. Where end is negative each sees what
    // the masks leave, from begin on.
    struct Region {
        int layer, first, last, begin, end, keep, keep_end;
    };

    HEPGEN_FN void compute(const Region& to) const {
        const int* seen = tables.last + layout.tiles[to.layer];
#pragma unroll 1
        for (int i = to.first; i < to.last;) {
            int count = min(to.last - i, kStrip), end = to.end;
            if (end < 0) {
                const int most = seen[i] + 1 + seen[i] / 8;
                while (count > 1 && seen[i + count - 1] > most) --count;
                end = seen[i + count - 1];
            }
            with_count(count,
                       [&](auto n) { strip<decltype(n)::tiles>(to.layer, i, to.begin, end, to.keep, to.keep_end); });
            i += count;
        }
        __syncwarp();
    }

    // A whole layer, where all of the one before is known.
    HEPGEN_FN Region whole(int layer) const {
        return {layer, 0, shape.padded[layer] / 8, 0, -1, 0, shape.padded[layer]};
    }
    HEPGEN_FN void compute_layer(int layer) const { compute(whole(layer)); }

    // The units of degree j of a layer, where those before are known; of the last layer the parameters of column j.
    // Passing: of the last layer what the last hidden layer's units of degree j give to column j and those after.
    template <bool passing>
    HEPGEN_FN Region of_degree(int layer, int j) {
        const int keep = stop(layer, j - 1), end = stop(layer, j);
        if constexpr (passing) {
            if (layer == shape.hidden) passed = keep;
            if (layer > shape.hidden) {
                const int begin = passed / 8, until = stop(shape.hidden, j) / 8, tiles = shape.padded[layer] / 8;
                return {
                    layer, j == 0 || until > begin ? 2 * j / 8 : tiles, tiles, begin, until, 0, shape.padded[layer]};
            }
        }
        return {layer, keep / 8, tiles_for(end), 0, tiles_for(stop(layer - 1, j)), keep, end};
    }

    // All layers, where all columns are known.
    template <bool passing = false>
    HEPGEN_FN void compute_all() {
        const int layers = shape.hidden + (passing ? -1 : 1), regions = layers + (passing ? 2 * shape.features : 0);
        __syncwarp();
#pragma unroll 1
        for (int i = 0; i < regions; ++i) {
            const int turn = i - layers;
            compute(turn < 0 ? whole(i + 1) : of_degree<passing>(shape.hidden + turn % 2, turn / 2));
        }
    }

    // The parameters of column j, where those before it are known.
    template <bool passing>
    HEPGEN_FN void compute_column(int j) {
#pragma unroll 1
        for (int layer = 1; layer <= shape.hidden + 1; ++layer) compute(of_degree<passing>(layer, j));
    }

    HEPGEN_FN void load_context() const {
        for_columns(shape.context, [&](int j) { values(0)[j * stride + mine()] = loaded(task.context, j); });
        clear(layout.rows[0] + shape.context, shape.padded[0] - shape.context);
    }
};

// The thread block's tile: in shared memory behind the tables, or in global memory.
template <class T, int groups, bool global>
HEPGEN_FN T* tile_memory(const MafTask<T>& task) {
    if constexpr (global) {
        return task.global_tile + std::int64_t(blockIdx.x) * task.layout.row_count * tile_stride(groups);
    } else {
        return reinterpret_cast<T*>(shared_memory<int>() + (MafTables::size(task.shape, task.layout) + 3) / 4 * 4);
    }
}

// --- what the host decides

enum class Pass { apply, forward_backward, inverse_backward };

// How a call is laid out and spread over the device.
struct MafPlan {
    MafLayout layout;
    int warps, tiles, blocks;
    std::size_t shared;
    std::int64_t global;  // elements of the workspace for tiles that do not fit into shared memory
};

template <class T>
MafPlan maf_plan(const MafShape& shape, Pass pass, std::int64_t n);

// Packs the weights into the workspace and describes the flow to the kernels.
template <class T>
MafTask<T> maf_task(const MafFlow<T>& flow, const MafPlan& plan, T* workspace, Stream stream);

}  // namespace hepgen::cuda
