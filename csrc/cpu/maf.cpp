#include "hepgen/maf.hpp"

#include <algorithm>
#include <atomic>

#include "hepgen/aligned.hpp"
#include "hepgen/isa.hpp"
#include "hepgen/maf_plan.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kChunkEvents = 256;  // one thread takes so many through the whole flow
// Partial sums of the weights' gradients belong to groups of rows, whose number depends on the sizes alone.
constexpr std::size_t kMostGroups = 32;
constexpr std::size_t kFewestRows = 2 * kTileEvents;
constexpr std::size_t kKeptBytes = std::size_t(16)
                                   << 20;  // hidden units that fit into so much are kept, not computed again
constexpr std::size_t kSumsBytes = std::size_t(128) << 20;  // what they may take

template <class T>
MafKernels<T> kernels() {
    switch (active_isa()) {
#ifdef HEPGEN_X86
        case Isa::avx512:
            return avx512::maf_kernels(T{});
        case Isa::avx2:
            return avx2::maf_kernels(T{});
#endif
        default:
            return baseline::maf_kernels(T{});
    }
}

// The parts of one call that do not change from tile to tile.
template <class T>
struct Flow {
    const MafShape& shape;
    const std::vector<MafBlock<const T>>& blocks;
    MafKernels<T> functions;
    PlanMaker maker;
    std::size_t n, padded;
    std::vector<int> orders;
    Aligned<T> packed, context;

    Flow(const MafShape& shape_, PlanKind kind, const std::vector<MafBlock<const T>>& blocks_, std::size_t n_)
        : shape(shape_),
          blocks(blocks_),
          functions(kernels<T>()),
          maker(shape_, kind, functions.lanes, functions.most_rows),
          n(n_),
          padded(round_up(n_, kTileEvents)),
          orders(shape_.orders, shape_.orders + shape_.blocks * shape_.features),
          packed(allocate<T>(maker.plan.packed_size * shape_.blocks)),
          context(allocate<T>(padded * shape_.context)) {}

    // Packs every block, then runs body(0 ... count - 1), then last(0 ... last_count - 1), each stage when the one
    // before it is done. Where memory ran out on some thread the call throws.
    template <class Body, class Last>
    void run(int threads, std::size_t count, const Body& body, std::size_t last_count, const Last& last) {
        const std::size_t packing = blocks.size();
        std::atomic<unsigned> packed_blocks{0}, done{0};
        std::atomic<bool> failed{false};
        auto guarded = [&failed](const auto& work, std::size_t task) {
            try {
                if (!failed) work(task);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
        };
        auto pack = [this](std::size_t block) { maker.pack(blocks[block], block_weights(int(block))); };
        parallel_tasks(threads, packing + count + last_count, [&](std::size_t task) {
            if (task < packing) {
                guarded(pack, task);
                packed_blocks.fetch_add(1, std::memory_order_release);
            } else if (task < packing + count) {
                wait_until(packed_blocks, unsigned(packing));
                guarded(body, task - packing);
                done.fetch_add(1, std::memory_order_release);
            } else {
                wait_until(done, unsigned(count));
                guarded(last, task - packing - count);
            }
        });
        if (failed) throw std::bad_alloc();
    }

    T* block_weights(int block) { return packed.get() + block * maker.plan.packed_size; }
    const int* order(int block) const { return orders.data() + std::size_t(block) * shape.features; }

    // Rows [begin, end) of `in` into columns; those that only fill the last tile repeat the last row.
    void gather(const Rows<const T>& in, int columns, std::size_t begin, std::size_t end, T* out) const {
        for (int k = 0; k < columns; ++k) {
            for (std::size_t i = begin; i < end; ++i) out[k * padded + i] = in.at(std::min(i, n - 1), k);
        }
    }

    void scatter(const T* columns, int count, std::size_t begin, std::size_t end, T* out) const {
        for (std::size_t i = begin; i < std::min(end, n); ++i) {
            for (int k = 0; k < count; ++k) out[i * count + k] = columns[k * padded + i];
        }
    }
};

// The states between the blocks, then, where they are kept, one tile's width that says for how many lanes the values
// are laid out, and the values of every block and tile.
struct RecordLayout {
    std::size_t states, values_per_tile, size;
    bool keeps_values;

    RecordLayout(const MafShape& shape, std::size_t n, std::size_t element_size) {
        const std::size_t padded = round_up(n, kTileEvents);
        states = std::size_t(shape.blocks + 1) * shape.features * padded;
        std::size_t units = shape.context + (1 + kMapOutputs) * shape.features;
        for (int width : shape.hidden) units += width;
        values_per_tile = units * kTileEvents;
        const std::size_t values = shape.blocks * units * padded;
        keeps_values = values * element_size <= kKeptBytes;
        size = keeps_values ? states + kTileEvents + values : states;
    }
};

// Where the values of a block's tile are in a record, null where they are not kept for this many lanes.
template <class T>
struct KeptValues {
    T* first;
    std::size_t per_tile, per_block;

    KeptValues(T* record, const RecordLayout& layout, int lanes, std::size_t padded)
        : first(record && layout.keeps_values && record[layout.states] == T(lanes)
                    ? record + layout.states + kTileEvents
                    : nullptr),
          per_tile(layout.values_per_tile),
          per_block(layout.values_per_tile * (padded / kTileEvents)) {}

    T* at(int block, std::size_t e) const {
        return first ? first + block * per_block + e / kTileEvents * per_tile : nullptr;
    }
};

int threads_for(std::size_t n, int threads) {
    return n > 2 * kTileEvents ? threads : 1;
}

// What the tiles of one block have in common, at event e.
template <class T>
MafTile<T> tile_at(Flow<T>& flow, int block, std::size_t e, const T* data, const T* base, T* scratch) {
    MafTile<T> tile{};
    tile.plan = &flow.maker.plan;
    tile.packed = flow.block_weights(block);
    tile.order = flow.order(block);
    tile.context = flow.context.get() + e;
    tile.stride = flow.padded;
    tile.data = data + e;
    tile.base = base + e;
    tile.values = tile.scratch = scratch;
    return tile;
}

// The state of a backward pass: adjoints as columns, partial sums of the weights' gradients per group of rows.
template <class T>
struct Backward {
    Direction direction;
    Flow<T> flow;
    const T* record;
    bool wants_context, wants_weights;
    std::size_t block_sums, flow_sums, rows, groups;
    Aligned<T> sums, gradient, log_det, context;

    Backward(Direction direction_, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
             const T* record_, bool wants_context_, bool wants_weights_)
        : direction(direction_),
          flow(shape, {false, direction_ == Direction::inverse, true}, blocks, n),
          record(record_),
          wants_context(wants_context_),
          wants_weights(wants_weights_),
          block_sums(wants_weights ? flow.maker.plan.sums_size : 0),
          flow_sums(block_sums * shape.blocks) {
        const std::size_t affordable = std::max<std::size_t>(4, kSumsBytes / (1 + flow_sums * sizeof(T)));
        const std::size_t most = std::min(kMostGroups, affordable);
        rows = std::max(kFewestRows, round_up((n + most - 1) / most, kTileEvents));
        groups = std::max<std::size_t>(1, (flow.padded + rows - 1) / rows);
        sums = allocate<T>(flow_sums * groups);
        gradient = allocate<T>(shape.features * flow.padded);
        log_det = allocate<T>(flow.padded);
        context = allocate<T>(wants_context ? shape.context * flow.padded : 0);
        if (n == 0) std::fill(sums.get(), sums.get() + flow_sums, T(0));
    }

    void run(std::size_t group, const Rows<const T>& context_in, const Rows<const T>& out_gradient,
             const Rows<const T>& log_det_gradient) {
        const MafShape& shape = flow.shape;
        const std::size_t begin = group * rows, end = std::min(begin + rows, flow.padded);
        Aligned<T> scratch = allocate<T>(flow.maker.plan.scratch_size);
        flow.gather(context_in, shape.context, begin, end, flow.context.get());
        flow.gather(out_gradient, shape.features, begin, end, gradient.get());
        flow.gather(log_det_gradient, 1, begin, end, log_det.get());
        clear_padding(begin, end);
        const std::size_t state_size = shape.features * flow.padded;
        const auto& functions = flow.functions;
        const KeptValues<const T> kept(record, RecordLayout(shape, flow.n, sizeof(T)), functions.lanes, flow.padded);
        const auto function = direction == Direction::forward ? functions.forward_backward : functions.inverse_backward;
        for (int step = 0; step < shape.blocks; ++step) {
            const int block = direction == Direction::forward ? shape.blocks - 1 - step : step;
            const T* data = record + block * state_size;
            for (std::size_t e = begin; e < end; e += kTileEvents) {
                MafTile<T> tile = tile_at(flow, block, e, data, data + state_size, scratch.get());
                tile.log_det_gradient = log_det.get() + e;
                tile.gradient = gradient.get() + e;
                tile.context_gradient = wants_context ? context.get() + e : nullptr;
                tile.sums = wants_weights ? sums.get() + group * flow_sums + block * block_sums : nullptr;
                tile.first = e == begin;
                if (const T* values = kept.at(block, e)) {
                    tile.values = const_cast<T*>(values);
                    tile.known = true;
                }
                function(tile);
            }
        }
    }

    // Rows that only fill the last tile add nothing.
    void clear_padding(std::size_t begin, std::size_t end) {
        for (std::size_t i = std::max(begin, flow.n); i < end; ++i) {
            log_det[i] = T(0);
            for (int k = 0; k < flow.shape.features; ++k) gradient[k * flow.padded + i] = T(0);
        }
        for (int k = 0; wants_context && k < flow.shape.context; ++k) {
            std::fill(context.get() + k * flow.padded + begin, context.get() + k * flow.padded + end, T(0));
        }
    }

    void finish(std::size_t block, const MafBlock<T>& gradients) {
        flow.maker.unpack_sums(sums.get() + block * block_sums, groups, flow_sums, gradients);
    }
};

}  // namespace

std::size_t maf_record_size(const MafShape& shape, std::size_t n, std::size_t element_size) {
    return RecordLayout(shape, n, element_size).size;
}

template <class T>
void maf_apply(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
               Rows<const T> in, Rows<const T> context, int threads, T* out, T* log_det, T* record) {
    if (n == 0) return;
    threads = threads_for(n, threads);
    const bool forward = direction == Direction::forward;
    Flow<T> flow(shape, {!forward, false, false}, blocks, n);
    const int d = shape.features;
    // state b is the data side of block b and the base side of block b - 1; without a record all are one
    const std::size_t state_size = record ? d * flow.padded : 0;
    Aligned<T> own = allocate<T>(record ? 0 : d * flow.padded), log_dets = allocate<T>(flow.padded);
    T* states = record ? record : own.get();
    T* last_state = states + shape.blocks * state_size;
    const RecordLayout layout(shape, n, sizeof(T));
    if (record && layout.keeps_values) std::fill_n(record + layout.states, kTileEvents, T(flow.functions.lanes));
    const KeptValues<T> kept(record, layout, flow.functions.lanes, flow.padded);
    const std::size_t rows = std::min(kChunkEvents, round_up((flow.padded + threads - 1) / threads, kTileEvents));
    auto apply = [&](std::size_t task) {
        const std::size_t begin = task * rows, end = std::min(begin + rows, flow.padded);
        Aligned<T> scratch = allocate<T>(flow.maker.plan.scratch_size);
        flow.gather(in, d, begin, end, forward ? states : last_state);
        flow.gather(context, shape.context, begin, end, flow.context.get());
        std::fill(log_dets.get() + begin, log_dets.get() + end, T(0));
        for (int step = 0; step < shape.blocks; ++step) {
            const int block = forward ? step : shape.blocks - 1 - step;
            T* data = states + block * state_size;
            T* base = data + state_size;
            for (std::size_t e = begin; e < end; e += kTileEvents) {
                MafTile<T> tile = tile_at<T>(flow, block, e, data, base, scratch.get());
                tile.out = (forward ? base : data) + e;
                tile.log_det = log_dets.get() + e;
                if (T* values = kept.at(block, e)) tile.values = values;
                (forward ? flow.functions.forward : flow.functions.inverse)(tile);
            }
        }
        flow.scatter(forward ? last_state : states, d, begin, end, out);
        flow.scatter(log_dets.get(), 1, begin, end, log_det);
    };
    flow.run(threads, (flow.padded + rows - 1) / rows, apply, 0, [](std::size_t) {});
}

template <class T>
void maf_backward(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks,
                  std::size_t n, const T* record, Rows<const T> context, Rows<const T> out_gradient,
                  Rows<const T> log_det_gradient, int threads, T* in_gradient, T* context_gradient,
                  const std::vector<MafBlock<T>>& gradients) {
    Backward<T> pass(direction, shape, blocks, n, record, context_gradient != nullptr, !gradients.empty());
    if (n == 0) {
        for (std::size_t block = 0; block < gradients.size(); ++block) pass.finish(block, gradients[block]);
        return;
    }
    auto group = [&](std::size_t g) {
        pass.run(g, context, out_gradient, log_det_gradient);
        const std::size_t begin = g * pass.rows, end = begin + pass.rows;
        if (in_gradient) pass.flow.scatter(pass.gradient.get(), shape.features, begin, end, in_gradient);
        if (context_gradient) pass.flow.scatter(pass.context.get(), shape.context, begin, end, context_gradient);
    };
    auto finish = [&](std::size_t block) { pass.finish(block, gradients[block]); };
    pass.flow.run(threads_for(n, threads), pass.groups, group, gradients.size(), finish);
}

#define HEPGEN_INSTANTIATE(T)                                                                                     \
    template void maf_apply<T>(Direction, const MafShape&, const std::vector<MafBlock<const T>>&, std::size_t,    \
                               Rows<const T>, Rows<const T>, int, T*, T*, T*);                                    \
    template void maf_backward<T>(Direction, const MafShape&, const std::vector<MafBlock<const T>>&, std::size_t, \
                                  const T*, Rows<const T>, Rows<const T>, Rows<const T>, int, T*, T*,             \
                                  const std::vector<MafBlock<T>>&);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)
#undef HEPGEN_INSTANTIATE

}  // namespace hepgen
