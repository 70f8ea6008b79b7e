#include "hepgen/maf.hpp"

#include <algorithm>

#include "hepgen/isa.hpp"
#include "hepgen/maf_call.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {

template <class T>
MafKernels<T> active_maf_kernels() {
    return HEPGEN_ACTIVE(maf_kernels(T{}));
}

template MafKernels<float> active_maf_kernels();
template MafKernels<double> active_maf_kernels();

namespace {

constexpr std::size_t kChunkEvents = 256;  // one thread takes so many through the whole flow
constexpr std::size_t kKeptBytes = std::size_t(16)
                                   << 20;  // hidden units that fit into so much are kept, not computed again

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

// The state of a backward pass: adjoints as columns, partial sums of the weights' gradients per group of rows.
template <class T>
struct Backward {
    Direction direction;
    MafCall<T>& call;
    MafSums<T>& sums;
    const T* record;
    Rows<const T> context_in, out_gradient, log_det_gradient;
    T *in_gradient, *context_gradient;

    void run(std::size_t group) {
        const MafShape& shape = call.shape;
        const std::size_t begin = sums.groups.begin(group), end = sums.groups.end(group), rows = end - begin;
        const std::size_t n = call.n, filled = std::min(end, n);
        const int d = shape.features, c = shape.context;
        Aligned<T> scratch = allocate<T>(call.maker.plan.scratch_size);
        Aligned<T> gradient = allocate<T>(rows * d), log_det = allocate<T>(rows), context = allocate<T>(rows * c),
                   of_context = allocate<T>(context_gradient ? rows * c : 0);
        gather(context_in, n, c, begin, end, context.get(), rows);
        gather(out_gradient, n, d, begin, end, gradient.get(), rows);
        gather(log_det_gradient, n, 1, begin, end, log_det.get(), rows);
        for (std::size_t i = filled - begin; i < rows; ++i) {  // rows that only fill the last tile add nothing
            log_det[i] = T(0);
            for (int k = 0; k < d; ++k) gradient[k * rows + i] = T(0);
        }
        if (context_gradient) std::fill_n(of_context.get(), rows * c, T(0));
        const std::size_t state_size = d * call.padded;
        const KeptValues<const T> kept(record, RecordLayout(shape, n, sizeof(T)), call.functions.lanes, call.padded);
        const bool forward = direction == Direction::forward;
        const auto function = forward ? call.functions.forward_backward : call.functions.inverse_backward;
        for (int step = 0; step < shape.blocks; ++step) {
            const int block = forward ? shape.blocks - 1 - step : step;
            MafTile<T> tile = call.tile(block, rows, scratch.get());
            tile.state_stride = call.padded;
            tile.sums = sums.at(group, block);
            for (std::size_t e = begin; e < end; e += kTileEvents) {
                tile.context = context.get() + (e - begin);
                tile.data = record + block * state_size + e;
                tile.base = tile.data + state_size;
                tile.log_det_gradient = log_det.get() + (e - begin);
                tile.gradient = gradient.get() + (e - begin);
                tile.context_gradient = context_gradient ? of_context.get() + (e - begin) : nullptr;
                tile.first = e == begin;
                if (const T* values = kept.at(block, e)) {
                    tile.values = const_cast<T*>(values);
                    tile.known = true;
                }
                function(tile);
            }
        }
        if (in_gradient) scatter(gradient.get(), rows, d, begin, filled, in_gradient);
        if (context_gradient) scatter(of_context.get(), rows, c, begin, filled, context_gradient);
    }
};

}  // namespace

std::size_t maf_record_size(const MafShape& shape, std::size_t n, std::size_t element_size) {
    return RecordLayout(shape, n, element_size).size;
}

template <class T>
void maf_apply(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
               Rows<const T> in, Rows<const T> context, int threads, T* out, T* log_det, T* record) {
    if (n == 0) {  // what is handed out has no chance bits in it
        if (record) std::fill_n(record, maf_record_size(shape, n, sizeof(T)), T(0));
        return;
    }
    threads = threads_for(n, threads);
    const bool forward = direction == Direction::forward;
    MafCall<T> call(shape, {!forward, false, false}, blocks, n);
    const int d = shape.features, c = shape.context;
    const RecordLayout layout(shape, n, sizeof(T));
    if (record && layout.keeps_values) std::fill_n(record + layout.states, kTileEvents, T(call.functions.lanes));
    const KeptValues<T> kept(record, layout, call.functions.lanes, call.padded);
    const std::size_t rows = std::min(kChunkEvents, round_up((call.padded + threads - 1) / threads, kTileEvents));
    auto apply = [&](std::size_t task) {
        const std::size_t begin = task * rows, end = std::min(begin + rows, call.padded), size = end - begin;
        const std::size_t filled = std::min(end, n);
        // state b is the data side of block b and the base side of block b - 1; without a record all are one
        Aligned<T> scratch = allocate<T>(call.maker.plan.scratch_size), contexts = allocate<T>(size * c),
                   log_dets = allocate<T>(size), own = allocate<T>(record ? 0 : size * d);
        const std::size_t stride = record ? call.padded : size, state_size = record ? d * call.padded : 0;
        T* states = record ? record + begin : own.get();
        T* last_state = states + shape.blocks * state_size;
        gather(in, n, d, begin, end, forward ? states : last_state, stride);
        gather(context, n, c, begin, end, contexts.get(), size);
        std::fill_n(log_dets.get(), size, T(0));
        for (int step = 0; step < shape.blocks; ++step) {
            const int block = forward ? step : shape.blocks - 1 - step;
            MafTile<T> tile = call.tile(block, size, scratch.get());
            tile.state_stride = stride;
            for (std::size_t e = 0; e < size; e += kTileEvents) {
                tile.context = contexts.get() + e;
                tile.data = states + block * state_size + e;
                tile.base = tile.data + state_size;
                tile.out = states + (forward ? block + 1 : block) * state_size + e;
                tile.log_det = log_dets.get() + e;
                if (T* values = kept.at(block, begin + e)) tile.values = values;
                (forward ? call.functions.forward : call.functions.inverse)(tile);
            }
        }
        scatter(forward ? last_state : states, stride, d, begin, filled, out);
        scatter(log_dets.get(), size, 1, begin, filled, log_det);
    };
    parallel_stages(threads, {{std::size_t(shape.blocks), [&](std::size_t block) { call.pack(block); }},
                              {(call.padded + rows - 1) / rows, apply}});
}

template <class T>
void maf_backward(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks,
                  std::size_t n, const T* record, Rows<const T> context, Rows<const T> out_gradient,
                  Rows<const T> log_det_gradient, int threads, T* in_gradient, T* context_gradient,
                  const std::vector<MafBlock<T>>& gradients) {
    MafCall<T> call(shape, {false, direction == Direction::inverse, true}, blocks, n);
    MafSums<T> sums(call, !gradients.empty());
    Backward<T> pass{direction,       call, sums, record, context, out_gradient, log_det_gradient, in_gradient,
                     context_gradient};
    parallel_stages(threads_for(n, threads),
                    {{n ? std::size_t(shape.blocks) : 0, [&](std::size_t block) { call.pack(block); }},
                     {n ? sums.groups.count : 0, [&](std::size_t group) { pass.run(group); }},
                     {gradients.size(), [&](std::size_t block) { sums.finish(call, block, gradients[block]); }}});
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
