#include "hepgen/mlp.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "hepgen/aligned.hpp"
#include "hepgen/isa.hpp"
#include "hepgen/panel_maker.hpp"
#include "hepgen/parallel.hpp"
#include "hepgen/row_groups.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kKeptBytes = std::size_t(64) << 20;  // values that fit into so much are kept, not computed again
constexpr std::size_t kChunkTiles = 4;                     // one thread takes so many through the network

template <class T>
MlpKernels<T> kernels() {
    return HEPGEN_ACTIVE(mlp_kernels(T{}));
}

std::size_t values_per_tile(const MlpShape& shape) {
    std::size_t units = 0;
    for (int width : shape.widths) units += width;
    return units * kTileEvents;
}

// The parts of one call that do not change from tile to tile.
template <class T>
struct Call {
    const MlpShape& shape;
    const MlpLayers<const T>& layers;
    MlpDropout dropout;
    MlpKernels<T> functions;
    PanelMaker maker;
    std::vector<Panels> values, adjoints;
    std::vector<std::size_t> values_at, transposed_at, bias_sums;
    std::size_t values_size = 0, transposed_size = 0;
    MlpPlan plan{};
    Aligned<T> packed;
    std::size_t n;

    Call(const MlpShape& shape_, const MlpMember<T>& member, std::uint32_t dropped, std::size_t n_, bool backward)
        : shape(shape_),
          layers(member.layers),
          dropout{dropped, member.seed},
          functions(kernels<T>()),
          maker(functions.lanes, functions.most_rows),
          n(n_) {
        for (int layer = 1; layer <= shape.layers(); ++layer) {
            values.push_back(maker.make(0, shape.widths[layer], 0, shape.widths[layer - 1], true));
        }
        for (int layer = 0; backward && layer < shape.layers(); ++layer) {
            adjoints.push_back(maker.make(0, shape.widths[layer], 0, shape.widths[layer + 1], false));
        }
        for (int width : shape.widths) {
            bias_sums.push_back(maker.make_bias_sums(width));
            values_at.push_back(values_size);
            transposed_at.push_back(transposed_size);
            values_size += std::size_t(width) * kTileEvents;
            transposed_size += round_up(width, kMostLanes) * kTileEvents;
        }
        plan = {shape.layers(),   shape.widths.data(),  shape.activation, shape.output,
                shape.shortcuts,  values.data(),        adjoints.data(),  values_at.data(),
                values_at.data(), transposed_at.data(), bias_sums.data()};
        packed = allocate<T>(maker.packed_size);
    }
    Call(const Call&) = delete;  // the plan points into it
    Call& operator=(const Call&) = delete;

    void pack(std::size_t index) {
        const LayerWeights<T> layer{layers.weights[index], layers.biases[index], shape.widths[index], nullptr};
        for (const Panel& p : values[index]) pack_panel(p, layer, packed.get());
        if (adjoints.empty()) return;
        for (const Panel& p : adjoints[index]) pack_transposed(p, layer, packed.get());
    }

    // The tile of rows [begin, ...) of the n, with as many strips as there are rows for.
    MlpTile<T> tile(std::size_t begin, T* tile_values) const {
        MlpTile<T> made{};
        made.plan = &plan;
        made.dropout = dropout;
        made.number = std::uint32_t(begin / kTileEvents);
        made.packed = packed.get();
        made.strips =
            int((std::min<std::size_t>(kTileEvents, n - begin) + functions.strip_events - 1) / functions.strip_events);
        made.values = tile_values;
        return made;
    }

    // Rows from `begin` on into the strips of one layer; beyond n the last row is repeated.
    void fill(const MlpTile<T>& tile, const Rows<const T>& in, int columns, std::size_t begin, T* to) const {
        const std::size_t events = functions.strip_events;
        for (int s = 0; s < tile.strips; ++s, begin += events) {
            gather(in, n, columns, begin, begin + events, to + s * columns * events, events);
        }
    }

    void empty(const MlpTile<T>& tile, const T* from, int columns, std::size_t begin, T* out) const {
        const std::size_t events = functions.strip_events;
        for (int s = 0; s < tile.strips; ++s, begin += events) {
            scatter(from + s * columns * events, events, columns, begin, std::min(begin + events, n), out);
        }
    }
};

// Where the values of a tile are in a record, null where they are not kept for this many lanes.
template <class T>
T* kept_values(T* record, const MlpShape& shape, int lanes, std::size_t begin) {
    if (!record || record[0] != T(lanes)) return nullptr;
    return record + kTileEvents + begin / kTileEvents * values_per_tile(shape);
}

template <class T>
struct Backward {
    Call<T>& call;
    RowGroups& groups;
    Rows<const T> in, out_gradient;
    const T* record;
    T *in_gradient, *sums;

    void run(std::size_t group) {
        const int inputs = call.shape.widths.front(), outputs = call.shape.widths.back();
        Aligned<T> own = allocate<T>(call.values_size), adjoints = allocate<T>(call.values_size),
                   transposed = allocate<T>(sums ? call.transposed_size : 0);
        T* of_output = adjoints.get() + call.values_at.back();
        for (std::size_t begin = groups.begin(group); begin < groups.end(group); begin += kTileEvents) {
            const T* kept = kept_values(record, call.shape, call.functions.lanes, begin);
            MlpTile<T> tile = call.tile(begin, kept ? const_cast<T*>(kept) : own.get());
            if (!kept) call.fill(tile, in, inputs, begin, tile.values);
            call.fill(tile, out_gradient, outputs, begin, of_output);
            clear_padding(tile, begin, outputs, of_output);
            tile.known = kept;
            tile.wants_input = in_gradient;
            tile.adjoints = adjoints.get();
            tile.transposed = transposed.get();
            tile.sums = sums ? sums + group * call.maker.sums_size : nullptr;
            tile.first = begin == groups.begin(group);
            call.functions.backward(tile);
            if (in_gradient) call.empty(tile, adjoints.get(), inputs, begin, in_gradient);
        }
    }

    // Rows that only fill the last strip add nothing.
    void clear_padding(const MlpTile<T>& tile, std::size_t begin, int columns, T* gradient) const {
        const std::size_t events = call.functions.strip_events;
        for (std::size_t i = call.n - std::min(begin, call.n); i < tile.strips * events; ++i) {
            for (int k = 0; k < columns; ++k) gradient[(i / events * columns + k) * events + i % events] = T(0);
        }
    }

    void finish(std::size_t index, const MlpLayers<T>& gradients) {
        const std::size_t width = call.shape.widths[index], lanes = call.functions.lanes;
        std::vector<T> row(width + lanes);
        for (const Panel& p : call.values[index]) {
            add_groups(sums + p.sums, round_up(width, lanes) * p.count, groups.count, call.maker.sums_size);
            for (int r = 0; r < p.count; ++r) {
                unpack_row(p, r, width, int(lanes), sums, row.data());
                std::copy_n(row.data(), width, gradients.weights[index] + (p.first + r) * width);
            }
        }
        const std::size_t units = call.shape.widths[index + 1];
        T* of_biases = sums + call.bias_sums[index + 1];
        add_groups(of_biases, units * lanes, groups.count, call.maker.sums_size);
        for (std::size_t unit = 0; unit < units; ++unit) {
            gradients.biases[index][unit] = unpack_bias(of_biases + unit * lanes, int(lanes));
        }
    }
};

template <class T>
void apply_one(const MlpShape& shape, const MlpMember<T>& member, std::uint32_t dropout, std::size_t n, int threads,
               T* out, T* record) {
    Call<T> call(shape, member, dropout, n, false);
    if (record) std::fill_n(record, kTileEvents, T(call.functions.lanes));
    const std::size_t rows = kChunkTiles * kTileEvents;
    auto apply = [&](std::size_t chunk) {
        Aligned<T> own = allocate<T>(call.values_size);
        for (std::size_t begin = chunk * rows; begin < std::min((chunk + 1) * rows, n); begin += kTileEvents) {
            T* kept = kept_values(record, shape, call.functions.lanes, begin);
            MlpTile<T> tile = call.tile(begin, kept ? kept : own.get());
            // strips that are not in use: what is handed out has no chance bits in it
            if (kept && begin + kTileEvents > n) std::fill_n(kept, call.values_size, T(0));
            call.fill(tile, member.in, shape.widths.front(), begin, tile.values);
            call.functions.forward(tile);
            call.empty(tile, tile.values + call.values_at.back(), shape.widths.back(), begin, out);
        }
    };
    parallel_stages(
        threads_for(n, threads),
        {{std::size_t(shape.layers()), [&](std::size_t layer) { call.pack(layer); }}, {(n + rows - 1) / rows, apply}});
}

template <class T>
void backward_one(const MlpShape& shape, const MlpMember<T>& member, std::uint32_t dropout, std::size_t n,
                  const T* record, Rows<const T> out_gradient, int threads, T* in_gradient,
                  const MlpLayers<T>& gradients) {
    Call<T> call(shape, member, dropout, n, true);
    const bool wants_weights = !gradients.weights.empty();
    const std::size_t sums_size = wants_weights ? call.maker.sums_size : 0;
    RowGroups groups(n, sums_size * sizeof(T));
    Aligned<T> sums = allocate<T>(sums_size * groups.count);
    if (n == 0) std::fill_n(sums.get(), sums_size, T(0));
    Backward<T> pass{call, groups, member.in, out_gradient, record, in_gradient, wants_weights ? sums.get() : nullptr};
    parallel_stages(threads_for(n, threads),
                    {{n ? std::size_t(shape.layers()) : 0, [&](std::size_t layer) { call.pack(layer); }},
                     {n ? groups.count : 0, [&](std::size_t group) { pass.run(group); }},
                     {gradients.weights.size(), [&](std::size_t layer) { pass.finish(layer, gradients); }}});
}

// one(member, threads): as many members side by side as there are threads, then what is left on all threads each.
template <class F>
void each_member(std::size_t count, int threads, F one) {
    const std::size_t beside = std::max(threads, 1), whole = count - count % beside;
    std::atomic<bool> failed{false};
    parallel_tasks(beside > 1 ? threads : 1, whole, [&](std::size_t member) {
        try {
            if (!failed) one(member, 1);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    });
    if (failed) throw std::bad_alloc();
    for (std::size_t member = whole; member < count; ++member) one(member, threads);
}

}  // namespace

std::uint32_t mlp_dropout(double probability) {
    return std::uint32_t(std::lround(std::clamp(probability, 0.0, 1.0) * 65536));
}

std::size_t mlp_record_size(const MlpShape& shape, std::size_t members, std::size_t n, std::size_t element_size) {
    const std::size_t size = kTileEvents + round_up(n, kTileEvents) / kTileEvents * values_per_tile(shape);
    return members * size * element_size <= kKeptBytes ? members * size : 0;
}

template <class T>
void mlp_apply(const MlpShape& shape, const std::vector<MlpMember<T>>& members, std::uint32_t dropout, std::size_t n,
               int threads, T* out, T* record) {
    const std::size_t count = members.size(), kept = mlp_record_size(shape, count, n, sizeof(T));
    if (n == 0) {
        if (record) std::fill_n(record, kept, T(0));
        return;
    }
    each_member(count, threads, [&](std::size_t e, int own_threads) {
        apply_one(shape, members[e], dropout, n, own_threads, out + e * n * shape.widths.back(),
                  record && kept ? record + kept / count * e : nullptr);
    });
}

template <class T>
void mlp_backward(const MlpShape& shape, const std::vector<MlpMember<T>>& members, std::uint32_t dropout, std::size_t n,
                  const T* record, const std::vector<Rows<const T>>& out_gradients, int threads, T* in_gradient,
                  const std::vector<MlpLayers<T>>& gradients) {
    const std::size_t count = members.size(), kept = mlp_record_size(shape, count, n, sizeof(T));
    each_member(count, threads, [&](std::size_t e, int own_threads) {
        backward_one(shape, members[e], dropout, n, record && kept ? record + kept / count * e : nullptr,
                     out_gradients[e], own_threads, in_gradient ? in_gradient + e * n * shape.widths.front() : nullptr,
                     gradients.empty() ? MlpLayers<T>{} : gradients[e]);
    });
}

#define HEPGEN_INSTANTIATE(T)                                                                                          \
    template void mlp_apply<T>(const MlpShape&, const std::vector<MlpMember<T>>&, std::uint32_t, std::size_t, int, T*, \
                               T*);                                                                                    \
    template void mlp_backward<T>(const MlpShape&, const std::vector<MlpMember<T>>&, std::uint32_t, std::size_t,       \
                                  const T*, const std::vector<Rows<const T>>&, int, T*,                                \
                                  const std::vector<MlpLayers<T>>&);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)
#undef HEPGEN_INSTANTIATE

}  // namespace hepgen
